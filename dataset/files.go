package dataset

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/sptune/spt/internal/regularfile"
)

// files gives access to the files of a data set: to those on the disk, or to those in an archive.
// Paths are absolute. The path of a file in an archive begins with the path of the archive, as if
// the archive were a folder. A missing file is an fs.ErrNotExist.
type files interface {
	// stat describes a file or a folder. It follows links.
	stat(path string) (fs.FileInfo, error)

	// list returns the entries of a folder, sorted by name.
	list(folder string) ([]fs.DirEntry, error)

	// real returns a path without links.
	real(path string) (string, error)

	// read returns the contents of a regular file. A file of more than limit bytes is an error.
	read(path string, limit int64) ([]byte, error)

	// open opens a regular file and returns its size in bytes.
	open(path string) (content, int64, error)

	// image returns the image in a file that exists. It is nil if Sample.Path leads to the image.
	image(path string) stored
}

// content is an open file.
type content interface {
	io.ReaderAt
	io.Closer
}

// disk gives access to the files of the system.
type disk struct{}

func (disk) stat(path string) (fs.FileInfo, error)         { return os.Stat(path) }
func (disk) list(folder string) ([]fs.DirEntry, error)     { return os.ReadDir(folder) }
func (disk) real(path string) (string, error)              { return filepath.EvalSymlinks(path) }
func (disk) read(path string, limit int64) ([]byte, error) { return regularfile.Read(path, limit) }
func (disk) image(string) stored                           { return nil }

// open opens a file. It refuses any kind but a regular file without opening it, because opening a
// pipe waits for its writer.
func (disk) open(path string) (content, int64, error) { return regularfile.Open(path) }

// globIn returns the paths of the files that match a pattern with slashes, sorted. Only the last
// element of the pattern may have wildcards. A missing folder has no files.
func globIn(at files, folder, pattern string) (found []string, err error) {
	inner, pattern := path.Split(pattern)
	folder = filepath.Join(folder, filepath.FromSlash(inner))
	if info, err := at.stat(folder); err != nil || !info.IsDir() {
		return nil, nil // as fs.Glob
	}
	entries, err := at.list(folder)
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", pattern, err)
	}
	for _, e := range entries {
		if ok, err := path.Match(pattern, e.Name()); err != nil {
			return nil, err
		} else if ok {
			found = append(found, filepath.Join(folder, e.Name()))
		}
	}
	return found, nil
}
