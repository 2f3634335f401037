package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
)

// maxLabel limits the labels of a list without class names. The largest label determines the number
// of classes. Without a limit, a damaged list could ask for a head with billions of rows.
// ImageNet-21k has 21,841 classes.
const maxLabel = 99_999

// readVTAB reads the lists of the VTAB-1k layout. It reads train800val200.txt only if neither
// train800.txt nor val200.txt exists.
func readVTAB(ctx context.Context, src source) (g contents, err error) {
	root := src.root
	g.classes, err = readClassNames(src.at, root, "classes.txt")
	if err != nil {
		return contents{}, err
	}
	trainList := "train800.txt"
	if found, err := anyExists(src.at, root, trainList); err != nil {
		return contents{}, err
	} else if !found {
		trainList = "train800val200.txt"
		if found, err := anyExists(src.at, root, "val200.txt"); err != nil {
			return contents{}, err
		} else if found {
			return contents{}, errors.New("found val200.txt but not train800.txt, and train800val200.txt holds the validation images too: add train800.txt or remove val200.txt")
		}
	}
	limit := g.labelLimit()
	err = g.readLists(src.at, root, [3]string{trainList, "val200.txt", "test.txt"}, func(name string, text []byte) ([]Sample, error) {
		return parseList(ctx, name, text, limit)
	})
	if err != nil {
		return contents{}, err
	}
	g.finishLists(root)
	return g, nil
}

// readLists reads the lists of the three splits in a folder. parse converts the text of a list to
// samples. The lists of the validation and the test split need not exist.
func (g *contents) readLists(at files, folder string, names [3]string, parse func(name string, text []byte) ([]Sample, error)) error {
	for split, samples := range []*[]Sample{&g.train, &g.val, &g.test} {
		text, err := readText(at, filepath.Join(folder, names[split]), maxList)
		if split > 0 && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if *samples, err = parse(names[split], text); err != nil {
			return err
		}
	}
	return nil
}

// labelLimit returns the exclusive upper limit of the labels.
func (g *contents) labelLimit() int {
	if g.classes != nil {
		return len(g.classes)
	}
	return maxLabel + 1
}

// finishLists makes the paths that parseList returned absolute; they are relative to folder. If no
// file names the classes, finishLists names them 0 … the largest label.
func (g *contents) finishLists(folder string) {
	greatest := 0
	for _, samples := range [][]Sample{g.train, g.val, g.test} {
		for i := range samples {
			s := &samples[i]
			s.Path = filepath.Join(folder, filepath.FromSlash(s.Path))
			greatest = max(greatest, s.stratum())
		}
	}
	g.noteFromOne()
	if g.classes == nil {
		g.unnamed = true
		for i := range greatest + 1 {
			g.classes = append(g.classes, strconv.Itoa(i))
		}
	}
}

// parseList reads lines "path label". The returned paths are clean, relative and local, and the
// labels are below limit.
func parseList(ctx context.Context, name string, text []byte, limit int) ([]Sample, error) {
	var samples []Sample
	line := 0
	for raw := range bytes.Lines(text) {
		line++
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s := strings.TrimRight(string(raw), "\r\n")
		if strings.TrimSpace(s) == "" {
			continue
		}
		where := fmt.Sprintf("%s:%d", name, line)
		// The last space is the separator: paths may contain spaces, but labels do not.
		cut := strings.LastIndexByte(s, ' ')
		if cut < 0 {
			return nil, fmt.Errorf("%s: found %q, want an image path, a space and a label", where, abbreviate(s))
		}
		label, err := strconv.Atoi(s[cut+1:])
		if err != nil {
			return nil, fmt.Errorf("%s: label %q is not an integer", where, abbreviate(s[cut+1:]))
		}
		if label < 0 {
			return nil, fmt.Errorf("%s: label %d is negative", where, label)
		}
		if label >= limit {
			if limit == maxLabel+1 {
				return nil, fmt.Errorf("%s: label %d is above the limit of %d", where, label, maxLabel)
			}
			return nil, fmt.Errorf("%s: label %d is out of range: classes.txt names %d classes, with labels 0 to %d", where, label, limit, limit-1)
		}
		p, err := localPath(s[:cut])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		samples = append(samples, Sample{Path: p, Target: Class(label), Where: where})
	}
	if len(samples) == 0 {
		return nil, fmt.Errorf("%s lists no images", name)
	}
	return samples, nil
}

// readClassNames reads a file such as classes.txt, which has one class name on each line. It
// returns nil if there is no such file.
func readClassNames(at files, root, file string) ([]string, error) {
	text, err := readText(at, filepath.Join(root, file), maxClassNames)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	lines := make(map[string]int)
	for s := range strings.Lines(strings.TrimRight(string(text), " \t\r\n")) {
		s = strings.TrimSpace(s)
		line := len(names) + 1
		if s == "" {
			return nil, fmt.Errorf("%s:%d: the line is empty: write one class name on every line", file, line)
		}
		if first, ok := lines[s]; ok {
			return nil, fmt.Errorf("%s:%d: class %q is already on line %d: rename one of the classes", file, line, abbreviate(s), first)
		}
		if err := checkClassName(fmt.Sprintf("%s:%d", file, line), s, "save the list as UTF-8"); err != nil {
			return nil, err
		}
		lines[s] = line
		names = append(names, s)
	}
	if names == nil {
		return nil, fmt.Errorf("%s names no classes: write one class name on every line, or delete the file", file)
	}
	return names, nil
}
