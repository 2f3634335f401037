package hub

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FileCheck is the result of the verification of one file of a model in the cache.
type FileCheck struct {
	// File is the path of the file in the repository.
	File string
	// Blob is the path of the content in the cache. It is "" if the content was deleted.
	Blob string
	// Bytes is the size of the content.
	Bytes int64
	// Sum is the checksum that the Hub stated: SHA-256, or the SHA-1 of git for a small file. It is
	// "" if the cache does not record a checksum, and then the content was not verified.
	Sum string
	// Err says why the content is damaged, and what the user can do. It is nil if the content has
	// the checksum Sum, or if Sum is "".
	Err error
}

// Verify reads all files of a commit of the repository repo, OWNER/NAME, that are in the cache. It
// compares them with the checksums that the Hub stated when they were downloaded. A damaged file is
// no error: it has Err in its FileCheck. Verify does not use the network.
func (c *Client) Verify(ctx context.Context, repo, commit string) ([]FileCheck, error) {
	if !validRepo(repo) || !IsCommit(commit) {
		return nil, inputErrorf("verifying %.200q at commit %.60q: expected OWNER/NAME and 40 hexadecimal digits", repo, commit)
	}
	root := c.folder(repo).snapshot(commit, "")
	var checks []FileCheck
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		check, err := verifyFile(ctx, path)
		check.File = filepath.ToSlash(name)
		checks = append(checks, check)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, inputErrorf("verifying %s: the cache %s does not have commit %s; fetch it first", repo, c.Cache, commit)
	}
	if err != nil {
		return nil, fmt.Errorf("verifying %s: %w", repo, err)
	}
	return checks, nil
}

// verifyFile verifies the file path of a snapshot, which links to a blob. The name of a blob is its
// checksum.
func verifyFile(ctx context.Context, path string) (check FileCheck, err error) {
	const advice = "and the next fetch downloads it again"
	blob, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		check.Err = fmt.Errorf("the content of %s was deleted; delete the link, %s", path, advice)
		return check, nil
	}
	if err != nil {
		return check, err
	}
	check.Blob = blob
	if check.Bytes = sizeOf(blob); check.Bytes < 0 {
		check.Err = fmt.Errorf("%s is not a regular file; delete it, %s", blob, advice)
		return check, nil
	}
	etag := filepath.Base(blob)
	sum := newSum(etag, check.Bytes)
	if sum == nil {
		return check, nil
	}
	check.Sum = etag
	f, err := os.Open(blob)
	if err != nil {
		return check, err
	}
	defer f.Close()
	if _, err := copyUntil(ctx, "verification", sum, f); err != nil {
		return check, err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != etag {
		check.Err = fmt.Errorf("%s is damaged: its checksum is %s, expected %s; delete it, %s", blob, got, etag, advice)
	}
	return check, nil
}
