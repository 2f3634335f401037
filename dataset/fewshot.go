package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// fewShotLists are NOAH's: a draw of some images a class, and beside it val_meta.list and test_meta.list.
const fewShotLists = "train_meta.list.num_shot_*"

// readFewShot reads one of NOAH's few-shot draws, which is named by its list: DIR/annotations/train_meta.list.num_shot_K.seed_S.
// Paths begin at images/ or at the folder above annotations.
func readFewShot(src source) (g given, err error) {
	if src.file == "" {
		return given{}, fmt.Errorf("there are several draws: give one, such as %s", filepath.Join(src.root, "annotations", "train_meta.list.num_shot_16.seed_0"))
	}
	root := filepath.Dir(filepath.Clean(src.root))
	if g.classes, err = readClassNames(root); err != nil {
		return given{}, err
	}
	draw := strings.TrimPrefix(filepath.Base(src.file), "train_meta.list.")
	g.name = filepath.Base(root) + "." + draw
	for _, list := range []struct {
		path     string
		samples  *[]Sample
		optional bool
	}{{src.file, &g.train, false}, {filepath.Join(src.root, "val_meta.list"), &g.val, true}, {filepath.Join(src.root, "test_meta.list"), &g.test, true}} {
		text, err := readText(list.path)
		if list.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return given{}, err
		}
		if *list.samples, err = parseList(filepath.Base(list.path), string(text), g.limit()); err != nil {
			return given{}, err
		}
	}
	folder, err := imageRoot(root, filepath.Base(src.file), g.train)
	if err != nil {
		return given{}, err
	}
	g.finishLists(folder)
	return g, nil
}
