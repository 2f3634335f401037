package run

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/hub"
	"github.com/sptune/spt/internal/regularfile"
	"github.com/sptune/spt/progress"
)

// url matches the beginning of an address, such as https:// or s3://.
var url = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)

// IsDataPath reports whether the name of a data set is a path, and neither a reference to the
// Hugging Face Hub nor an address, which no data set has.
func IsDataPath(name string) bool { return !hub.IsDataset(name) && !url.MatchString(name) }

// AbsoluteData returns the name of a data set such that it is valid in every working folder: a path
// becomes absolute.
func AbsoluteData(name string) (string, error) {
	if !IsDataPath(name) {
		return name, nil
	}
	return filepath.Abs(name)
}

// readmeFile is the name of the card of a data set on the Hub. maxCard limits its size in bytes.
const (
	readmeFile = "README.md"
	maxCard    = 64 << 20
)

// openHub opens the data set that c.Path names on the Hugging Face Hub. It downloads the parquet
// files of the configuration and of the splits that are read, unless the cache has them, and sets
// c.Commit. If the branch main has no parquet files, openHub takes those that the Hub has
// converted.
func (c *DataConfig) openHub(ctx context.Context, o dataset.OpenOptions, report progress.Func) (*dataset.Dataset, error) {
	r, err := hub.ParseDataset(c.Path)
	if err != nil {
		return nil, &OptionError{Option: "data", Err: err}
	}
	if c.Commit != "" {
		if !hub.IsCommit(c.Commit) {
			return nil, &InputError{Err: fmt.Errorf("data set %s: the configuration has commit %.60q, expected 40 hexadecimal digits", c.Path, c.Commit)}
		}
		r.Revision = c.Commit
	}
	client, err := hub.New()
	if err != nil {
		return nil, err
	}
	client.Progress = report
	list, shards, err := chooseShards(ctx, client, r)
	if err == nil && list.Note != "" {
		report.Report(progress.Event{Stage: progress.Note, Item: c.Path + ": " + list.Note})
	}
	var root string
	if err == nil {
		// The first file shows whether the data set has images, before the others are downloaded.
		root, err = client.FetchFiles(ctx, list, shards.Files()[:1])
	}
	if err == nil {
		if err = dataset.CheckShard(filepath.Join(root, filepath.FromSlash(shards.Files()[0])), o); err != nil {
			err = &InputError{Err: err}
		}
	}
	if err == nil {
		_, err = client.FetchFiles(ctx, list, shards.Files())
	}
	if err != nil {
		err = fmt.Errorf("opening data set %s: %w", c.Path, err)
		if _, ok := errors.AsType[*hub.InputError](err); ok {
			err = &InputError{Err: err}
		}
		return nil, err
	}
	d, err := dataset.OpenShards(ctx, root, path.Base(r.Repo), shards, o)
	if err != nil {
		if ctx.Err() == nil {
			err = &InputError{Err: err}
		}
		return nil, err
	}
	c.Commit = list.Commit
	return d, nil
}

// chooseShards lists the files of a data set and chooses those of the configuration. It downloads
// the card of the data set, which may list the configurations.
func chooseShards(ctx context.Context, client *hub.Client, r hub.DatasetReference) (*hub.Listing, dataset.Shards, error) {
	list, err := client.List(ctx, r)
	if err != nil {
		return nil, dataset.Shards{}, err
	}
	var card []byte
	if _, ok := list.Files[readmeFile]; ok {
		root, err := client.FetchFiles(ctx, list, []string{readmeFile})
		if err != nil {
			return nil, dataset.Shards{}, err
		}
		if card, err = regularfile.Read(filepath.Join(root, readmeFile), maxCard); err != nil {
			return nil, dataset.Shards{}, err
		}
	}
	var files []string
	for name := range list.Files {
		files = append(files, name)
	}
	shards, err := dataset.ChooseShards(files, card, r.Config)
	switch {
	case err == nil:
		return list, shards, nil
	case !errors.Is(err, dataset.ErrNoParquet):
		return nil, shards, &InputError{Err: err}
	case r.Revision == hub.ConvertedRevision:
		return nil, shards, &InputError{Err: errors.New("the Hub has not converted it to parquet, and it has no parquet files itself: download it and give its folder")}
	case r.Revision != "":
		return nil, shards, &InputError{Err: fmt.Errorf("the revision %s has no parquet files: leave the revision out, for the files that the Hub has converted, or download the data set and give its folder", r.Revision)}
	}
	r.Revision = hub.ConvertedRevision
	list, shards, err = chooseShards(ctx, client, r)
	if _, ok := errors.AsType[*hub.InputError](err); ok {
		err = &InputError{Err: fmt.Errorf("its branch main has no parquet files, and those that the Hub converts are missing; download the data set and give its folder: %w", err)}
	}
	return list, shards, err
}
