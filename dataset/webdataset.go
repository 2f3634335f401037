package dataset

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A data set in the layout webdataset is a list of tar archives, the shards. The files of a sample
// have the same path up to the first dot of their name, the key of the sample. The rest of the name
// says what the file holds, as in 0001.jpg and 0001.cls. The layout is that of the library
// webdataset.

// shardName is the end of the name of a shard that is recognised. Compressed shards need the layout
// or a pattern, because recognition must not decompress archives.
const shardName = ".tar"

const (
	// maxShardField limits the size of a file that holds a label, in bytes.
	maxShardField = 1 << 20
	// maxPattern limits the number of files that a pattern stands for.
	maxPattern = 100_000
	// sniffedFiles is the number of files of an archive that are read to recognise shards.
	sniffedFiles = 64
)

// classNameFiles lists the files that may name the classes of shards.
var classNameFiles = []string{"classnames.txt", "classes.txt"}

// shardLabels lists the fields that may hold a label. Earlier fields take precedence. A field .json
// holds an object, whose label is in one of the columns of labels or in one of these keys.
var (
	shardLabels = []string{"cls", "json", "txt"}
	shardKeys   = []string{"cls", "__class__"}
)

// expandBraces returns the paths that a pattern such as train-{000..009}.tar stands for. A range
// counts from its first number to its last, with the zeros of the first. A list such as {train,val}
// stands for each of its words.
func expandBraces(pattern string) ([]string, error) {
	paths := []string{""}
	for rest := pattern; rest != ""; {
		text, after, found := strings.Cut(rest, "{")
		words := []string{""}
		if rest = ""; found {
			inside, behind, closed := strings.Cut(after, "}")
			if !closed {
				return nil, fmt.Errorf("the pattern %s has { without }: write it as in train-{000..009}%s", pattern, shardName)
			}
			var err error
			if words, err = braceWords(inside); err != nil {
				return nil, fmt.Errorf("the pattern %s: %w", pattern, err)
			}
			rest = behind
		}
		if len(paths)*len(words) > maxPattern {
			return nil, fmt.Errorf("the pattern %s stands for more than %d files, the limit", pattern, maxPattern)
		}
		var more []string
		for _, p := range paths {
			for _, w := range words {
				more = append(more, p+text+w)
			}
		}
		paths = more
	}
	for i, p := range paths {
		if end := endOf(p, archiveNames); end == "" || end == zipName {
			return nil, fmt.Errorf("the pattern stands for %s, which is not a shard: a pattern names tar archives of the layout webdataset, as in train-{000..009}%s", p, shardName)
		}
		if slices.Contains(paths[:i], p) {
			return nil, fmt.Errorf("the pattern %s stands for %s twice", pattern, p)
		}
	}
	return paths, nil
}

// braceWords returns the words that the text between braces stands for.
func braceWords(inside string) ([]string, error) {
	from, to, isRange := strings.Cut(inside, "..")
	if !isRange {
		return strings.Split(inside, ","), nil
	}
	first, err := strconv.ParseUint(from, 10, 31)
	last, err2 := strconv.ParseUint(to, 10, 31)
	if err != nil || err2 != nil || last < first || last-first >= maxPattern {
		return nil, fmt.Errorf("the range {%s} is not a range of at most %d numbers, such as {000..009}", inside, maxPattern)
	}
	var words []string
	for n := first; n <= last; n++ {
		words = append(words, fmt.Sprintf("%0*d", len(from), n))
	}
	return words, nil
}

// fieldOf returns the key of a file in a shard and the name of its field, in lower case.
func fieldOf(inner string) (key, field string) {
	folder, name := path.Split(inner)
	name, field, _ = strings.Cut(name, ".")
	return folder + name, strings.ToLower(field)
}

// isImageField reports whether a field holds an image.
func isImageField(field string) bool { return slices.Contains(imageExtensions, "."+field) }

// recogniseWebDataset reports whether a folder holds shards, or an archive is one.
func recogniseWebDataset(ctx context.Context, src source) (bool, error) {
	if a, ok := src.at.(*archive); ok {
		return endOf(a.given, archiveNames) != zipName && holdsSamples(a.order), nil
	}
	shards, err := shardsIn(src.at, src.root, shardName)
	if err != nil {
		return false, err
	}
	for _, split := range shards.files {
		if len(split) > 0 {
			a, err := listArchive(ctx, split[0], sniffedFiles)
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			// other tar files may lie beside a data set
			return err == nil && holdsSamples(a.order), nil
		}
	}
	return false, nil
}

// holdsSamples reports whether the first image of an archive has a label under the same key. Class
// folders may hold descriptions of the images, so that in a folder only .cls is a sign.
func holdsSamples(order []*archivedFile) bool {
	order = order[:min(len(order), sniffedFiles)]
	for _, image := range order {
		key, field := fieldOf(image.path)
		if !isImageField(field) || hiddenName(path.Base(key)) != "" {
			continue
		}
		return slices.ContainsFunc(order, func(f *archivedFile) bool {
			other, label := fieldOf(f.path)
			return other == key && slices.Contains(shardLabels, label) && (label == "cls" || !strings.Contains(key, "/"))
		})
	}
	return false
}

// archiveHint returns the end of an error message: it says how to open an archive in the folder. It
// returns "" if there is none.
func archiveHint(src source) string {
	entries, _ := src.at.list(src.root) // the caller already reports another error
	for _, e := range entries {
		if !e.IsDir() && IsArchiveName(e.Name()) {
			return fmt.Sprintf("; if the archive %s holds the images, give %s", e.Name(), filepath.Join(src.root, e.Name()))
		}
	}
	return ""
}

// readWebDataset reads shards. The samples of a split are sorted by class and then by key, as the
// images of class folders, and not in the order of the shards. So the same images train the same
// model in both layouts.
func readWebDataset(ctx context.Context, src source) (g contents, err error) {
	shards := parquetSet{files: [3][]string{{src.root}}}
	alone, isArchive := src.at.(*archive)
	switch {
	case isArchive:
		shards.files[0][0] = alone.given
	case src.given != nil:
		shards.files, shards.unread, _ = splitShards(src.given)
	default:
		for _, ext := range archiveNames {
			if ext == zipName {
				continue
			}
			if shards, err = shardsIn(src.at, src.root, ext); err != nil || shards.any() {
				break
			}
		}
		if err != nil {
			return contents{}, err
		}
	}
	if shards.files[0] == nil && !(src.NoTrain && shards.any()) {
		return contents{}, fmt.Errorf("there is no shard of training images: looked for train*%s and train/*%[1]s, or *%[1]s without the name of a split", shardName)
	}
	var names []string
	var splits [3][]labelled
	empty := 0
	for split, paths := range shards.files {
		for _, p := range paths {
			a := alone
			if !isArchive {
				if a, err = openArchive(ctx, p); err != nil {
					return contents{}, err
				}
				g.notes = append(g.notes, a.notes...)
			}
			if names == nil {
				if names, err = shardClasses(src, a); err != nil {
					return contents{}, err
				}
			}
			rows, without, err := readShard(ctx, src, a, isArchive)
			if err != nil {
				return contents{}, err
			}
			splits[split] = append(splits[split], rows...)
			empty += without
		}
		slices.SortStableFunc(splits[split], func(a, b labelled) int { return cmp.Compare(innerPath(a.Sample), innerPath(b.Sample)) })
	}
	notes := g.notes
	if empty > 0 {
		notes = append(notes, fmt.Sprintf("samples of the shards without an image are not read: %d", empty))
	}
	unlabelled, err := dropUnlabelled(&splits)
	if err != nil {
		return contents{}, err
	}
	if g, err = assignClasses(names, false, splits); err != nil {
		return contents{}, err
	}
	for _, samples := range [][]Sample{g.train, g.val, g.test} {
		slices.SortStableFunc(samples, func(a, b Sample) int { return cmp.Compare(a.stratum(), b.stratum()) })
	}
	g.notes = slices.Concat(notes, unlabelled, g.notes)
	if shards.unread != nil {
		g.note = "; not read: " + strings.Join(shards.unread, ", ")
	}
	return g, nil
}

// innerPath returns the path of an image inside its archive.
func innerPath(s Sample) string { return relative(s.stored.file(), s.Path) }

// shardClasses returns the class names in the folder of the shards or in the shard a. It returns
// nil if there are none.
func shardClasses(src source, a *archive) (names []string, err error) {
	for _, place := range []source{src, {at: a, root: a.given}} {
		for _, file := range classNameFiles {
			if names, err = readClassNames(place.at, place.root, file); err != nil || names != nil {
				return names, err
			}
		}
	}
	return nil, nil
}

// readShard returns a labelled sample for each image of a shard. alone reports whether the shard is
// the whole data set. without is the number of samples that have no image.
func readShard(ctx context.Context, src source, a *archive, alone bool) (rows []labelled, without int, err error) {
	name := relative(src.root, a.given)
	if alone {
		name = filepath.Base(a.given)
	}
	type sample struct {
		image  *archivedFile
		fields map[string]*member
	}
	var keys []string
	samples := map[string]*sample{}
	for _, f := range a.order {
		if slices.ContainsFunc(strings.Split(f.path, "/"), func(e string) bool { return hiddenName(e) != "" }) || slices.Contains(classNameFiles, f.path) {
			continue
		}
		key, field := fieldOf(f.path)
		s := samples[key]
		if s == nil {
			s = &sample{fields: map[string]*member{}}
			samples[key] = s
			keys = append(keys, key)
		}
		switch isImage := isImageField(field); {
		case src.ImageColumn != "" && !strings.EqualFold(strings.TrimPrefix(src.ImageColumn, "."), field), src.ImageColumn == "" && !isImage:
			s.fields[field] = f.member
		case s.image != nil:
			return nil, 0, fmt.Errorf("%s: the sample %q has two images, %s and %s: name the field of the images as the image column", name, abbreviate(key), path.Base(s.image.path), path.Base(f.path))
		default:
			s.image = f
		}
	}
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		s := samples[key]
		if s.image == nil {
			without++
			continue
		}
		where := fmt.Sprintf("%s:%s", name, abbreviate(key))
		label, missing, err := shardLabel(a.container, s.fields, src.LabelColumn)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", where, err)
		}
		if err := checkClassName(where, label, "write the labels as UTF-8"); err != nil {
			return nil, 0, err
		}
		full := filepath.Join(a.given, filepath.FromSlash(s.image.path))
		rows = append(rows, labelled{Sample: Sample{Path: full, Where: where, stored: archiveImage{a.container, s.image.member, full}}, label: label, missing: missing})
	}
	if rows == nil {
		return nil, 0, fmt.Errorf("%s holds no images of the layout webdataset: looked for files such as 0001.jpg with their label in 0001.cls, 0001.json or 0001.txt", name)
	}
	return rows, without, nil
}

// shardLabel returns the label of a sample. want is the name of a field or of a key of the field
// .json; "" means a usual one. missing says why there is no label.
func shardLabel(c *container, fields map[string]*member, want string) (label string, missing, err error) {
	text := func(field string) ([]byte, error) {
		data, err := c.contents(fields[field], maxShardField)
		if err != nil {
			return nil, fmt.Errorf("reading the label in .%s: %w", field, err)
		}
		return bytes.TrimSpace(data), nil
	}
	plain, keys := shardLabels, slices.Concat(labelColumns, shardKeys)
	if want != "" {
		plain, keys = []string{strings.ToLower(strings.TrimPrefix(want, ".")), "json"}, []string{want}
	}
	for _, field := range plain {
		if fields[field] == nil {
			continue
		}
		data, err := text(field)
		if err != nil {
			return "", nil, err
		}
		if field != "json" {
			if len(data) == 0 {
				return "", errEmptyCell, nil
			}
			return string(data), nil, nil
		}
		_, values, err := jsonObject(data)
		if err != nil {
			return "", nil, fmt.Errorf("reading the label in .json: %w", err)
		}
		for _, key := range keys {
			if values[key] == nil {
				continue
			}
			label, err := jsonScalar(values[key])
			if errors.Is(err, errEmptyCell) || errors.Is(err, errNull) {
				return "", err, nil
			}
			if err != nil {
				return "", nil, fmt.Errorf("reading the label in .json: %q: %w", abbreviate(key), err)
			}
			return label, nil, nil
		}
	}
	return "", fmt.Errorf("it has no label (looked for the fields .%s, and in .json for %s): add a label, or name the label column", strings.Join(plain, ", ."), strings.Join(keys, ", ")), nil
}
