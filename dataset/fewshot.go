package dataset

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// fewShotLists is the pattern of NOAH's training lists: each is a draw of a few images of every
// class. val_meta.list and test_meta.list lie beside it.
const fewShotLists = "train_meta.list.num_shot_*"

// recogniseFewShot reports whether a folder holds few-shot draws.
func recogniseFewShot(_ context.Context, root string) (bool, error) {
	draws, err := filepath.Glob(filepath.Join(globEscape(root), "annotations", fewShotLists))
	return draws != nil, err
}

// readFewShot reads one of NOAH's few-shot draws. The user names the draw by its training list,
// DIR/annotations/train_meta.list.num_shot_K.seed_S. Its lines are those of VTAB-1k's lists. The
// paths begin at images/, Images/ or the folder above annotations.
func readFewShot(ctx context.Context, src source) (g given, err error) {
	if src.file == "" {
		return given{}, fmt.Errorf("there are several draws: give the list of one draw, such as %s", filepath.Join(src.root, "annotations", "train_meta.list.num_shot_16.seed_0"))
	}
	root := filepath.Dir(filepath.Clean(src.root))
	if g.classes, err = readClassNames(root); err != nil {
		return given{}, err
	}
	draw := strings.TrimPrefix(filepath.Base(src.file), "train_meta.list.")
	g.name = filepath.Base(root) + "." + draw
	limit := g.labelLimit()
	names := [3]string{filepath.Base(src.file), "val_meta.list", "test_meta.list"}
	err = g.readLists(src.root, names, func(name string, text []byte) ([]Sample, error) {
		return parseList(name, string(text), limit)
	})
	if err != nil {
		return given{}, err
	}
	folder, err := imageRoot(ctx, root, filepath.Base(src.file), g.train)
	if err != nil {
		return given{}, err
	}
	g.finishLists(folder)
	return g, nil
}
