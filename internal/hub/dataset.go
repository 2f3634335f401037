package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sptune/spt/internal/atomicfile"
)

// datasetPrefix is the start of every reference to a data set.
const datasetPrefix = "hf-dataset:"

// ConvertedRevision is the revision in which the Hub stores the parquet files that it makes of a
// data set in another format. The files are CONFIG/SPLIT/NUMBER.parquet.
const ConvertedRevision = "refs/convert/parquet"

// DatasetReference names a data set on the Hub.
type DatasetReference struct {
	// Repo is the repository, OWNER/NAME.
	Repo string
	// Config is the name of a configuration of the data set. Default: "", the only or the default
	// configuration.
	Config string
	// Revision is a branch, a tag or a commit. Default: "", the branch main.
	Revision string
}

// IsDataset reports whether s begins with hf-dataset: and so is a reference to a data set, not a
// path. It does not check the rest of s; [ParseDataset] does.
func IsDataset(s string) bool { return strings.HasPrefix(s, datasetPrefix) }

// ParseDataset reads a reference of the form hf-dataset:OWNER/NAME[/CONFIG][@REVISION]. It rejects
// parts that are not safe in a path or an address, such as "..".
func ParseDataset(s string) (DatasetReference, error) {
	const form = "expected " + datasetPrefix + "OWNER/NAME, followed by /CONFIG and @REVISION if needed"
	text, ok := strings.CutPrefix(s, datasetPrefix)
	if !ok {
		return DatasetReference{}, fmt.Errorf("%q is not a reference to a data set of the Hugging Face Hub; %s", s, form)
	}
	text, revision, hasRevision := strings.Cut(text, "@")
	var r DatasetReference
	parts := strings.SplitN(text, "/", 3)
	r.Repo, r.Revision = strings.Join(parts[:min(2, len(parts))], "/"), revision
	if len(parts) == 3 {
		r.Config = parts[2]
	}
	switch {
	case !validRepo(r.Repo):
		return r, fmt.Errorf("%q: %q is not the name of a repository; %s", s, r.Repo, form)
	case len(parts) == 3 && (!validPath(r.Config) || strings.Contains(r.Config, "/")):
		return r, fmt.Errorf("%q: %q is not the name of a configuration; %s", s, r.Config, form)
	case hasRevision && !validPath(revision):
		return r, fmt.Errorf("%q: %q is not a revision (a branch, a tag or a commit); %s", s, revision, form)
	}
	return r, nil
}

// String returns the reference in the form that [ParseDataset] reads.
func (r DatasetReference) String() string {
	s := datasetPrefix + r.Repo
	if r.Config != "" {
		s += "/" + r.Config
	}
	if r.Revision != "" {
		s += "@" + r.Revision
	}
	return s
}

// datasets is the start of the path of a data set on the Hub, where a model has the path
// OWNER/NAME.
const datasets = "datasets/"

// kindAndRepo returns the path of a repository in the API of the Hub. repo is OWNER/NAME for a
// model and datasets/OWNER/NAME for a data set.
func kindAndRepo(repo string) string {
	if strings.HasPrefix(repo, datasets) && strings.Count(repo, "/") == 2 {
		return repo
	}
	return "models/" + repo
}

// Listing lists the files of one commit of a data set.
type Listing struct {
	// Commit is the commit of the files.
	Commit string
	// Files holds the size of each file in bytes, by its path in the repository. It is -1 if the
	// Hub does not state the size.
	Files map[string]int64
	// Note is as in [Snapshot].
	Note string

	repo string // datasets/OWNER/NAME
}

// storedListing is the content of the file that [folder.listing] names.
type storedListing struct {
	Files map[string]int64 `json:"files"`
}

// listing returns the path of the list of the files of a commit. Only this package writes and reads
// it: the libraries of Hugging Face store no such list.
func (f folder) listing(commit string) string {
	return filepath.Join(f.root, ".spt-files", commit+".json")
}

// List returns the files of the data set r at its revision; it ignores r.Config. If the revision is
// a branch or tag, List asks the Hub for its commit each time. If it cannot reach the Hub, and the
// cache has the list of the last known commit, List returns this list and sets Note. An error that
// the user can correct is an [*InputError].
func (c *Client) List(ctx context.Context, r DatasetReference) (*Listing, error) {
	if _, err := ParseDataset(r.String()); err != nil {
		return nil, &InputError{err}
	}
	l, err := c.list(ctx, Reference{Repo: datasets + r.Repo, Revision: cmp.Or(r.Revision, "main")})
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", r, err)
	}
	return l, nil
}

// list is List for a reference with a revision.
func (c *Client) list(ctx context.Context, r Reference) (*Listing, error) {
	f := c.folder(r.Repo)
	local, err := f.storedList(r)
	switch {
	case err != nil:
		return nil, err
	case c.Offline && local == nil:
		return nil, inputErrorf("the list of its files is not in the cache %s, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network; open the data set once without these variables, or set HF_HOME or HF_HUB_CACHE to a cache that has it", c.Cache)
	case c.Offline:
		local.Note = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, so the cache was used: commit " + local.Commit
		return local, nil
	case IsCommit(r.Revision) && local != nil:
		return local, nil
	}
	info, err := c.info(ctx, r, local == nil)
	if temporary(err) && local != nil {
		local.Note = fmt.Sprintf("the Hub cannot be reached (%v), so the cache was used: commit %s", err, local.Commit)
		return local, nil
	}
	if err != nil {
		return nil, err
	}
	l := &Listing{Commit: info.commit, Files: map[string]int64{}, repo: r.Repo}
	for name, size := range info.files {
		if validPath(name) { // a file of another name cannot be stored on every system
			l.Files[name] = size
		}
	}
	data, err := json.Marshal(storedListing{l.Files})
	if err != nil {
		return nil, err
	}
	path := f.listing(l.Commit)
	if old, err := readText(path); err != nil || string(old) != string(data) {
		if err = os.MkdirAll(filepath.Dir(path), 0o777); err == nil {
			err = atomicfile.WriteBytes(path, data)
		}
		if err != nil {
			return nil, fmt.Errorf("storing the list of the files: %w", c.explainCache(err))
		}
	}
	return l, f.setRef(r.Revision, l.Commit)
}

// storedList returns the list of the files of the commit of r from the cache. It returns nil if the
// cache does not know the commit or has no list.
func (f folder) storedList(r Reference) (*Listing, error) {
	commit, err := f.commitOf(r.Revision)
	if err != nil || commit == "" {
		return nil, err
	}
	data, err := readText(f.listing(commit))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the cache: %w", err)
	}
	var stored storedListing
	if err := json.Unmarshal(data, &stored); err != nil || stored.Files == nil {
		return nil, fmt.Errorf("the file %s of the cache is not a list of files; remove the file", f.listing(commit))
	}
	return &Listing{Commit: commit, Files: stored.Files, repo: r.Repo}, nil
}

// FetchFiles downloads the given files of a data set that the cache does not have, and returns the
// folder of the commit: a file has its path in the repository below this folder. Interruptions and
// errors are as in [Client.Fetch]. If c.Offline is set, the cache must have all files.
func (c *Client) FetchFiles(ctx context.Context, l *Listing, files []string) (root string, err error) {
	f := c.folder(l.repo)
	info := &repoInfo{commit: l.Commit, files: l.Files}
	for _, file := range files {
		size, known := l.Files[file]
		if !known || !validPath(file) {
			return "", inputErrorf("fetching %s at commit %s: the data set has no file %.200q", l.repo, l.Commit, file)
		}
		have := sizeOf(f.snapshot(l.Commit, file))
		if c.Offline && (have < 0 || size >= 0 && size != have) {
			return "", inputErrorf("fetching %s at commit %s: the file %s is not completely in the cache %s, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network; fetch the data set once without these variables", l.repo, l.Commit, printable(file), c.Cache)
		}
	}
	if !c.Offline {
		if err := c.downloadFiles(ctx, f, l.repo, info, files); err != nil {
			return "", fmt.Errorf("fetching %s at commit %s: %w", l.repo, l.Commit, err)
		}
	}
	return f.snapshot(l.Commit, ""), nil
}
