package dataset

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// fewShotLists matches the names of the training lists of the few-shot benchmark of NOAH. Each list
// holds K images of every class, drawn with a seed. The lists val_meta.list and test_meta.list lie
// in the same folder.
const fewShotLists = "train_meta.list.num_shot_*"

// recogniseFewShot reports whether a folder holds few-shot lists.
func recogniseFewShot(_ context.Context, src source) (bool, error) {
	lists, err := globIn(src.at, src.root, "annotations/"+fewShotLists)
	return lists != nil, err
}

// readFewShot reads one few-shot data set of NOAH. The user opens it by its training list,
// DIR/annotations/train_meta.list.num_shot_K.seed_S. The lists have lines "path label", as in
// VTAB-1k. Paths are relative to DIR/images, DIR/Images or DIR.
func readFewShot(ctx context.Context, src source) (g contents, err error) {
	if src.file == "" {
		return contents{}, fmt.Errorf("the folder may hold several few-shot lists: give the path of one list, such as %s", filepath.Join(src.root, "annotations", "train_meta.list.num_shot_16.seed_0"))
	}
	root := filepath.Dir(filepath.Clean(src.root))
	if g.classes, err = readClassNames(src.at, root, "classes.txt"); err != nil {
		return contents{}, err
	}
	g.name = filepath.Base(root) + "." + strings.TrimPrefix(filepath.Base(src.file), "train_meta.list.")
	limit := g.labelLimit()
	names := [3]string{filepath.Base(src.file), "val_meta.list", "test_meta.list"}
	err = g.readLists(src.at, src.root, names, func(name string, text []byte) ([]Sample, error) {
		return parseList(ctx, name, text, limit)
	})
	if err != nil {
		return contents{}, err
	}
	folder, err := imageRoot(ctx, src.at, root, filepath.Base(src.file), g.train)
	if err != nil {
		return contents{}, err
	}
	g.finishLists(folder)
	return g, nil
}
