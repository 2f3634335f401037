package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/regularfile"
)

// folder is the folder of one repository in the cache. It has the structure that huggingface_hub
// defines:
//
//	blobs/ETAG                 content of a file, named after the checksum that the server sends
//	snapshots/COMMIT/FILE      a link to a blob, or the content if the system has no links
//	refs/REVISION              the last known commit of a branch or tag
//	.no_exist/COMMIT/FILE      an empty file: the commit has no such file
//
// The lock files are in the folder .locks of the cache.
type folder struct {
	root  string // path of the folder models--OWNER--NAME or datasets--OWNER--NAME
	locks string // path of the folder of the lock files
}

// folder returns the folder of the repository repo, as in kindAndRepo.
func (c *Client) folder(repo string) folder {
	name := strings.ReplaceAll(kindAndRepo(repo), "/", "--")
	return folder{filepath.Join(c.Cache, name), filepath.Join(c.Cache, ".locks", name)}
}

// blob returns the path of the content with the given ETag.
func (f folder) blob(etag string) string { return filepath.Join(f.root, "blobs", etag) }

// snapshot returns the path of a file of a commit.
func (f folder) snapshot(commit, file string) string {
	return filepath.Join(f.root, "snapshots", commit, filepath.FromSlash(file))
}

// ref returns the path of the file that stores the commit of a revision.
func (f folder) ref(revision string) string {
	return filepath.Join(f.root, "refs", filepath.FromSlash(revision))
}

// noExist returns the path of the empty file that records that a commit has no such file.
func (f folder) noExist(commit, file string) string {
	return filepath.Join(f.root, ".no_exist", commit, filepath.FromSlash(file))
}

// look returns what the cache knows about a file.
func (f folder) look(commit, file string) presence {
	if isFile(f.snapshot(commit, file)) {
		return present
	}
	if isFile(f.noExist(commit, file)) {
		return absent
	}
	return unknown
}

// isFile reports whether path is a regular file or a link to one. It returns false for a link to a
// blob that was deleted.
func isFile(path string) bool { return sizeOf(path) >= 0 }

// sizeOf returns the size in bytes of the regular file at path or of the file that it links to. It
// returns -1 if there is none.
func sizeOf(path string) int64 {
	stat, err := os.Stat(path)
	if err != nil || !stat.Mode().IsRegular() {
		return -1
	}
	return stat.Size()
}

// readText reads a file of the cache that has at most maxText bytes.
func readText(path string) ([]byte, error) { return regularfile.Read(path, maxText) }

// commitOf returns the commit of a revision: the revision itself if it is a commit, or the last
// known commit. It returns "" if the cache knows none.
func (f folder) commitOf(revision string) (string, error) {
	if IsCommit(revision) {
		return revision, nil
	}
	data, err := readText(f.ref(revision))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the cache: %w", err)
	}
	commit := strings.TrimSpace(string(data))
	if !IsCommit(commit) {
		return "", fmt.Errorf("the file %s of the cache holds %.60q; expected the hash of a commit; remove the file", f.ref(revision), commit)
	}
	return commit, nil
}

// find searches the cache for r and does not use the network. The snapshot is nil if the cache does
// not know the commit of the revision or does not have all files of the weights. certain is as in
// choose.
func (f folder) find(r Reference) (s *Snapshot, certain bool, err error) {
	commit, err := f.commitOf(r.Revision)
	if err != nil || commit == "" {
		return nil, false, err
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

// remember stores the commit of the revision of r in the cache, and marks the files that the commit
// does not have. If the cache is not writable, this is an error only if the commit differs from the
// stored one.
func (f folder) remember(r Reference, commit string, look func(string) presence) error {
	choose(r, func(file string) presence {
		p := look(file)
		if mark := f.noExist(commit, file); p == absent && !isFile(mark) {
			// An error does no harm: without the mark, the next call asks the Hub again.
			if os.MkdirAll(filepath.Dir(mark), 0o777) == nil {
				_ = os.WriteFile(mark, nil, 0o666)
			}
		}
		return p
	})
	return f.setRef(r.Revision, commit)
}

// setRef stores the commit of a revision in the cache, unless the revision is a commit. If the
// cache is not writable, this is an error only if the commit differs from the stored one.
func (f folder) setRef(revision, commit string) error {
	if IsCommit(revision) {
		return nil
	}
	path := f.ref(revision)
	if data, err := readText(path); err == nil && string(data) == commit {
		return nil
	}
	err := os.MkdirAll(filepath.Dir(path), 0o777)
	if err == nil {
		err = atomicfile.WriteBytes(path, []byte(commit))
	}
	if err != nil {
		return fmt.Errorf("writing the commit to the cache: %w; set HF_HOME or HF_HUB_CACHE to a folder that you may write", err)
	}
	return nil
}

// symlink creates a symbolic link. Tests replace it.
var symlink = os.Symlink

// link creates the link from a file of a snapshot to its blob. The link is relative, so that users
// can move the cache. If no link can be created, link moves the blob to the snapshot, as
// huggingface_hub does. On Windows, only administrators and users in developer mode may create
// symbolic links. Some disks have none.
func (f folder) link(etag, commit, file string) error {
	path, blob := f.snapshot(commit, file), f.blob(etag)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	target, err := filepath.Rel(filepath.Dir(path), blob)
	if err != nil {
		return err
	}
	if sameFile(path, blob) {
		return nil
	}
	// There may be a link to a blob that was deleted, or a damaged copy of the file.
	if err := atomicfile.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = symlink(target, path)
	if err == nil || sameFile(path, blob) { // another process may have created the link
		return nil
	}
	if moved := atomicfile.Rename(blob, path); moved != nil {
		return errors.Join(err, moved)
	}
	return nil
}

// sameFile reports whether the paths a and b lead to the same file.
func sameFile(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}
