package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sptune/spt/internal/atomicfile"
)

// folder is a repository's in the cache, laid out as huggingface_hub does:
//
//	blobs/ETAG                 content, by the server's checksum of it
//	snapshots/COMMIT/FILE      a link to a blob
//	refs/REVISION              the commit that a branch or tag last was
//	.no_exist/COMMIT/FILE      empty: the repository has no such file
//
// A file's lock is in .locks, beside the repositories.
type folder struct {
	root  string // models--OWNER--NAME
	locks string
}

func (c *Client) folder(repo string) folder {
	name := "models--" + strings.ReplaceAll(repo, "/", "--")
	return folder{filepath.Join(c.Cache, name), filepath.Join(c.Cache, ".locks", name)}
}

func (f folder) blob(etag string) string { return filepath.Join(f.root, "blobs", etag) }

func (f folder) snapshot(commit, file string) string {
	return filepath.Join(f.root, "snapshots", commit, filepath.FromSlash(file))
}

func (f folder) ref(revision string) string {
	return filepath.Join(f.root, "refs", filepath.FromSlash(revision))
}

func (f folder) noExist(commit, file string) string {
	return filepath.Join(f.root, ".no_exist", commit, filepath.FromSlash(file))
}

// look says what the cache knows of a file.
func (f folder) look(commit, file string) presence {
	if isFile(f.snapshot(commit, file)) {
		return present
	}
	if isFile(f.noExist(commit, file)) {
		return absent
	}
	return unknown
}

// isFile follows links, so that one to a blob that is gone is none.
func isFile(path string) bool {
	stat, err := os.Stat(path)
	return err == nil && stat.Mode().IsRegular()
}

// find looks in the cache alone. The snapshot is nil if the revision is not
// known there or the weights are not whole; certain is as choose says it.
func (f folder) find(r Reference) (s *Snapshot, certain bool, err error) {
	commit := r.Revision
	if !IsCommit(commit) {
		data, err := os.ReadFile(f.ref(r.Revision))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("looking into the cache: %w", err)
		}
		if commit = strings.TrimSpace(string(data)); !IsCommit(commit) {
			return nil, false, fmt.Errorf("the cache's %s holds %.60q, expected the hash of a commit; remove the file", f.ref(r.Revision), commit)
		}
	}
	weights, _, certain := choose(r, func(file string) presence { return f.look(commit, file) })
	if weights == "" {
		return nil, false, nil
	}
	s = &Snapshot{Path: f.snapshot(commit, weights), Commit: commit}
	shards, err := shardsOf(s.Path, weights)
	if err != nil {
		return nil, false, err
	}
	for _, name := range shards {
		if f.look(commit, name) != present {
			return nil, false, nil
		}
	}
	return s, certain, nil
}

// remember notes what was learnt of a revision and of files that it lacks. In a
// cache that cannot be written it fails only where something is new.
func (f folder) remember(r Reference, commit string, look func(string) presence) error {
	choose(r, func(file string) presence {
		p := look(file)
		if mark := f.noExist(commit, file); p == absent && !isFile(mark) {
			// Without the mark the Hub is asked again.
			if os.MkdirAll(filepath.Dir(mark), 0o777) == nil {
				_ = os.WriteFile(mark, nil, 0o666)
			}
		}
		return p
	})
	if IsCommit(r.Revision) {
		return nil
	}
	path := f.ref(r.Revision)
	if data, err := os.ReadFile(path); err == nil && string(data) == commit {
		return nil
	}
	err := os.MkdirAll(filepath.Dir(path), 0o777)
	if err == nil {
		err = atomicfile.WriteBytes(path, []byte(commit))
	}
	if err != nil {
		return fmt.Errorf("noting the commit in the cache: %w", err)
	}
	return nil
}

// link puts a blob into a snapshot. The link is relative, so that the cache can
// be moved.
func (f folder) link(etag, commit, file string) error {
	path := f.snapshot(commit, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	target, err := filepath.Rel(filepath.Dir(path), f.blob(etag))
	if err != nil {
		return err
	}
	err = os.Symlink(target, path)
	if errors.Is(err, fs.ErrExist) && !isFile(path) {
		// It leads to a blob that is gone.
		if err = os.Remove(path); err == nil || errors.Is(err, fs.ErrNotExist) {
			err = os.Symlink(target, path)
		}
	}
	if errors.Is(err, fs.ErrExist) && isFile(path) {
		return nil // another process was quicker
	}
	return err
}
