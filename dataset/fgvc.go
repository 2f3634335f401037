package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"unicode/utf8"
)

// readFGVC reads the JSON lists of the FGVC layout, which Visual Prompt Tuning (VPT) introduced. It
// sorts the class ids of train.json and numbers them 0, 1, 2, …
func readFGVC(ctx context.Context, src source) (g contents, err error) {
	if err := g.readLists(src.at, src.root, [3]string{"train.json", "val.json", "test.json"}, func(name string, text []byte) ([]Sample, error) {
		return parseJSONList(ctx, name, text)
	}); err != nil {
		return contents{}, err
	}
	var ids []int
	for _, s := range g.train {
		ids = append(ids, s.stratum())
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	for _, id := range ids {
		g.classes = append(g.classes, strconv.Itoa(id))
	}

	folder, err := imageRoot(ctx, src.at, src.root, "train.json", g.train)
	if err != nil {
		return contents{}, err
	}
	for _, samples := range [][]Sample{g.train, g.val, g.test} {
		for i := range samples {
			s := &samples[i]
			label, ok := slices.BinarySearch(ids, s.stratum())
			if !ok {
				return contents{}, fmt.Errorf("%s: train.json has no image of class %d", s.Where, s.stratum())
			}
			s.Target = Class(label)
			s.Path = filepath.Join(folder, filepath.FromSlash(s.Path))
		}
	}
	return g, nil
}

// imageRoot returns the folder that the paths of the lists are relative to: images, Images or root
// itself. It is the one that holds an image of the training list. imageRoot tries the images in the
// order of the list, because some may be missing.
func imageRoot(ctx context.Context, at files, root, list string, samples []Sample) (string, error) {
	folders := []string{filepath.Join(root, "images"), filepath.Join(root, "Images"), root}
	for _, s := range samples {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		for _, f := range folders {
			if _, err := findFile(at, filepath.Join(f, filepath.FromSlash(s.Path))); err == nil {
				return f, nil
			}
		}
	}
	return "", fmt.Errorf("no image of %s exists: looked for %s and the other images in images/, Images/ and %s", list, samples[0].Where, root)
}

// parseJSONList reads an object {"path": id, …} and returns its samples in the order of the file.
// The returned paths are clean, relative and local. The targets are the ids of the file.
// parseJSONList reads the text token by token to find duplicate keys, of which json.Unmarshal would
// keep the last.
func parseJSONList(ctx context.Context, name string, text []byte) ([]Sample, error) {
	if !utf8.Valid(text) {
		// The decoder would replace the invalid bytes, and different paths would become equal.
		for i, line := range bytes.Split(text, []byte("\n")) {
			if !utf8.Valid(line) {
				return nil, fmt.Errorf("%s:%d: the text is not UTF-8: save the list as UTF-8", name, i+1)
			}
		}
	}
	d := json.NewDecoder(contextReader{ctx, bytes.NewReader(text)})
	d.UseNumber()
	// line returns the current line of the decoder, for errors that cannot name a key.
	line := func() int { return 1 + bytes.Count(text[:min(int(d.InputOffset()), len(text))], []byte("\n")) }
	fail := func(err error) error {
		return fmt.Errorf("%s:%d: %w", name, line(), jsonCut(err))
	}
	token, err := d.Token()
	if err != nil {
		return nil, fail(err)
	}
	if token != json.Delim('{') {
		return nil, fmt.Errorf("%s:%d: found %.80q, want an object {\"image path\": class id, …}", name, line(), fmt.Sprint(token))
	}
	var samples []Sample
	seen := make(map[string]bool)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, fail(err)
		}
		key, ok := token.(string)
		if !ok {
			return nil, fmt.Errorf("%s:%d: found %v, want an image path", name, line(), token)
		}
		p, err := localPath(key)
		if err != nil {
			return nil, fmt.Errorf("%s: %.80q: %w", name, key, err)
		}
		where := fmt.Sprintf("%s: %q", name, key)
		if seen[key] {
			return nil, fmt.Errorf("%s: the key is listed twice (again on line %d): remove one entry", where, line())
		}
		seen[key] = true
		value, err := d.Token()
		if err != nil {
			return nil, fail(err)
		}
		number, ok := value.(json.Number)
		if !ok {
			found := fmt.Sprintf("%.80q", fmt.Sprint(value))
			if value == nil {
				found = "null"
			}
			return nil, fmt.Errorf("%s (line %d): found %s, want a class id, which is an integer from 0", where, line(), found)
		}
		id, err := strconv.Atoi(number.String())
		if err != nil {
			return nil, fmt.Errorf("%s: class id %.80s is not an integer from 0 to %d", where, number, maxLabel)
		}
		if id < 0 {
			return nil, fmt.Errorf("%s: class id %d is negative", where, id)
		}
		samples = append(samples, Sample{Path: p, Target: Class(id), Where: where})
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, fail(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s:%d: more text follows after the closing brace of the object: remove it", name, line())
	}
	if len(samples) == 0 {
		return nil, fmt.Errorf("%s lists no images", name)
	}
	return samples, nil
}
