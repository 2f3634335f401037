package dataset

import (
	"bufio"
	"bytes"
	"cmp"

	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/flate"

	"github.com/sptune/spt/internal/regularfile"
)

// archiveNames lists the ends of the names of archives. The content of a tar archive says how it is
// compressed.
var archiveNames = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", zipName}

// zipName is the end of the name of a zip archive. All other archives are tar archives.
const zipName = ".zip"

// otherArchives lists the ends of the names of archives that are not read.
var otherArchives = []string{".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".7z", ".rar"}

// IsArchiveName reports whether the name of a file is the name of an archive that [Open] and
// [FindImages] read, in upper or lower case.
func IsArchiveName(path string) bool { return endOf(path, archiveNames) != "" }

// ArchiveNames returns the ends of the names of archives, such as ".tar".
func ArchiveNames() []string { return slices.Clone(archiveNames) }

// endOf returns the element of ends with which a name ends, or "".
func endOf(name string, ends []string) string {
	name = strings.ToLower(name)
	for _, end := range ends {
		if strings.HasSuffix(name, end) {
			return end
		}
	}
	return ""
}

// container is a file that holds images. Every read opens and closes the file, so that a data set
// needs no closing.
type container struct {
	path string // path of the file that is read

	// given is the path of the archive that the user gave. It differs from path if the archive is
	// compressed.
	given string

	size     int64 // bytes
	modified time.Time
}

// newContainer describes the regular file at path. given is as in container.
func newContainer(path, given string) (*container, error) {
	f, _, err := regularfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &container{path, given, info.Size(), info.ModTime()}, nil
}

// open opens the file. It returns an error if the file has changed, because the places of the
// images may be others.
func (c *container) open() (*os.File, error) {
	f, size, err := regularfile.Open(c.path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (size != c.size || !info.ModTime().Equal(c.modified)) {
		err = fmt.Errorf("%s has changed since the data set was opened: open the data set again", c.given)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// member is a file or a folder in an archive. It implements fs.FileInfo and fs.DirEntry.
type member struct {
	name    string // last element of the path
	folder  bool
	inside  []*member // entries of a folder, sorted by name
	size    int64     // bytes of the contents
	offset  int64     // place of the contents in the container
	packed  int64     // bytes of the contents in the container
	method  uint16    // compression, with the numbers of zip; 0 for none
	checked bool      // sum is the checksum of the contents
	sum     uint32    // CRC-32
}

// The methods of compression in zip archives that are read.
const (
	methodStore   = 0
	methodDeflate = 8
)

func (m *member) Name() string               { return m.name }
func (m *member) IsDir() bool                { return m.folder }
func (m *member) Type() fs.FileMode          { return m.Mode().Type() }
func (m *member) Info() (fs.FileInfo, error) { return m, nil }
func (m *member) Size() int64                { return m.size }
func (m *member) ModTime() time.Time         { return time.Time{} }
func (m *member) Sys() any                   { return nil }
func (m *member) Mode() fs.FileMode {
	if m.folder {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

// maxDeflate is the largest ratio of compression that DEFLATE reaches.
const maxDeflate = 1032

// contents returns the contents of a file in the container. It returns an error if they have more
// than limit bytes.
func (c *container) contents(m *member, limit int64) (data []byte, err error) {
	f, err := c.open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return c.contentsOf(f, m, limit)
}

// contentsOf is contents for the open container f.
func (c *container) contentsOf(f io.ReaderAt, m *member, limit int64) (data []byte, err error) {
	switch {
	case m.size > limit:
		return nil, fmt.Errorf("it has %d bytes, more than the limit of %d bytes", m.size, limit)
	case m.method != methodStore && m.method != methodDeflate:
		return nil, fmt.Errorf("compression method %d of zip is not supported: write the archive with the method deflate, or without compression", m.method)
	case m.method == methodDeflate && m.size/maxDeflate > m.packed:
		return nil, fmt.Errorf("the archive states %d bytes that are compressed to %d bytes, which is not possible: the archive is damaged", m.size, m.packed)
	}
	data = make([]byte, m.size)
	if m.method == methodStore {
		_, err = f.ReadAt(data, m.offset)
	} else {
		err = inflate(data, io.NewSectionReader(f, m.offset, m.packed))
	}
	err = noEOF(err)
	if err == nil && m.checked && crc32.ChecksumIEEE(data) != m.sum {
		err = errors.New("its checksum differs from the checksum in the archive: the archive is damaged")
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

// inflater decompresses DEFLATE data. Its tables and buffers take 40 kB, so inflaters are used
// again.
type inflater struct {
	from *bufio.Reader
	to   io.ReadCloser // a flate.Resetter
}

var inflaters = sync.Pool{New: func() any {
	from := bufio.NewReader(nil)
	return &inflater{from, flate.NewReader(from)}
}}

// inflate fills data with the decompressed bytes of r. More and fewer bytes are errors.
func inflate(data []byte, r io.Reader) error {
	z := inflaters.Get().(*inflater)
	defer inflaters.Put(z)
	z.from.Reset(r)
	if err := z.to.(flate.Resetter).Reset(z.from, nil); err != nil {
		return err
	}
	if _, err := io.ReadFull(z.to, data); err != nil {
		return err
	}
	if n, _ := z.to.Read(make([]byte, 1)); n > 0 {
		return fmt.Errorf("it has more than the %d bytes that the archive states: the archive is damaged", len(data))
	}
	return nil
}

// archiveImage is an image file in an archive. It implements stored.
type archiveImage struct {
	from   *container
	member *member
	path   string // as in Sample.Path
}

func (s archiveImage) encoded() ([]byte, error) {
	data, err := s.from.contents(s.member, maxEncodedBytes)
	if err != nil {
		return nil, fmt.Errorf("reading image %s: %w", s.path, err)
	}
	return data, nil
}

// ends implements partial. The bytes of a compressed file cannot be read alone.
func (s archiveImage) ends(n int) (first, last []byte, size int64, err error) {
	m := s.member
	switch {
	case m.method == methodDeflate && m.size <= maxEncodedBytes:
		return nil, nil, 0, nil
	case m.method != methodStore || m.size > maxEncodedBytes:
		_, err := s.encoded() // says why it cannot be read
		return nil, nil, 0, err
	}
	f, err := s.from.open()
	if err == nil {
		defer f.Close()
		first, last, err = endsOf(io.NewSectionReader(f, m.offset, m.size), m.size, n)
	}
	if err != nil {
		return nil, nil, 0, fmt.Errorf("reading image %s: %w", s.path, err)
	}
	return first, last, m.size, nil
}

func (s archiveImage) size() int64  { return s.member.size }
func (s archiveImage) file() string { return s.from.given }

// archive is an archive whose files are read in place.
type archive struct {
	*container
	root  member
	order []*archivedFile // the files, in the order of the archive
	notes []string        // see Dataset.Notes
}

// archivedFile is a file of an archive and its path in the archive, with slashes.
type archivedFile struct {
	path string
	*member
}

// openArchive reads the list of the files in an archive, and not the files themselves. A compressed
// tar archive is first decompressed into the cache; see decompressed.
func openArchive(ctx context.Context, path string) (*archive, error) {
	return listArchive(ctx, path, -1)
}

// listArchive is openArchive for the first most files of an archive. Negative means all files.
func listArchive(ctx context.Context, path string, most int) (*archive, error) {
	a, err := indexArchive(ctx, path, most)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("reading the archive %s: %w", path, err)
	}
	return a, err
}

// indexArchive is listArchive without the name of the archive in errors.
func indexArchive(ctx context.Context, path string, most int) (*archive, error) {
	isZip := endOf(path, archiveNames) == zipName
	from := path
	if !isZip {
		var err error
		if from, err = decompressed(ctx, path); err != nil {
			return nil, err
		}
	}
	c, err := newContainer(from, path)
	if err != nil {
		return nil, err
	}
	f, err := c.open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return newIndex(c, most).read(ctx, f, isZip)
}

// index collects the files of an archive.
type index struct {
	*archive
	most  int                // number of files to read; negative: all
	known map[string]*member // by path
	links []string           // paths of links and special files, which are not read
	inner []string           // paths of archives in the archive
}

// errEnough ends the reading of an archive after index.most files.
var errEnough = errors.New("enough files")

// newIndex returns an empty index. most is as in index.
func newIndex(c *container, most int) *index {
	a := &archive{container: c, root: member{folder: true}}
	return &index{archive: a, most: most, known: map[string]*member{"": &a.root}}
}

// read lists the files of the archive with the given content.
func (x *index) read(ctx context.Context, r io.ReaderAt, isZip bool) (*archive, error) {
	list := x.listTar
	if isZip {
		list = x.listZip
	}
	if err := list(ctx, r); err != nil && err != errEnough {
		return nil, err
	}
	if len(x.order) == 0 {
		return nil, errors.New("it holds no files")
	}
	x.sort()
	x.note(x.links, "link or special file", "links and special files", "pack the archive again with the files that the links lead to")
	x.note(x.inner, "archive", "archives", "unpack it, and give it alone or pack its files")
	return x.archive, nil
}

// sort sorts the entries of the folders.
func (x *index) sort() {
	for _, m := range x.known {
		slices.SortFunc(m.inside, func(a, b *member) int { return cmp.Compare(a.name, b.name) })
	}
}

// note adds a note about entries of the archive that are not read.
func (x *index) note(paths []string, one, many, remedy string) {
	if n := len(paths); n == 1 {
		x.notes = append(x.notes, fmt.Sprintf("%s holds the %s %q, which is not read: %s", filepath.Base(x.given), one, abbreviate(paths[0]), remedy))
	} else if n > 1 {
		x.notes = append(x.notes, fmt.Sprintf("%s holds %d %s, which are not read; the first is %q: %s", filepath.Base(x.given), n, many, abbreviate(paths[0]), remedy))
	}
}

// add adds an entry with the name that the archive states. It returns nil for the folder that is
// the archive itself. A name that leaves the archive, a file that is listed twice, and a file that
// is also a folder are errors.
func (x *index) add(name string, folder bool) (*member, error) {
	clean, err := archivePath(name)
	if err != nil || clean == "" {
		return nil, err
	}
	m := x.known[clean]
	switch {
	case m == nil:
	case m.folder && folder:
		return nil, nil
	case m.folder != folder:
		return nil, fmt.Errorf("%q is a file and a folder in it: pack the archive again", abbreviate(name))
	default:
		return nil, fmt.Errorf("the file %q is in it twice: pack the archive again with one of them", abbreviate(name))
	}
	if !folder && len(x.order) == x.most {
		return nil, errEnough
	}
	m = x.place(clean, folder)
	if m == nil {
		return nil, fmt.Errorf("the folder of %q is also a file in it: pack the archive again", abbreviate(name))
	}
	if folder {
		return nil, nil
	}
	x.order = append(x.order, &archivedFile{clean, m})
	if endOf(clean, archiveNames) != "" || endOf(clean, otherArchives) != "" {
		x.inner = append(x.inner, clean)
	}
	return m, nil
}

// place adds a file or a folder, with the folders above it. It returns nil if one of them is a
// file.
func (x *index) place(clean string, folder bool) *member {
	if m := x.known[clean]; m != nil {
		if !m.folder {
			return nil
		}
		return m
	}
	above, name := path.Split(clean)
	parent := x.place(strings.TrimSuffix(above, "/"), true)
	if parent == nil {
		return nil
	}
	m := &member{name: name, folder: folder}
	x.known[clean] = m
	parent.inside = append(parent.inside, m)
	return m
}

// archivePath returns the clean form of the name of an entry, with slashes. It is "" for the top of
// the archive. Archives may come from untrusted sources, so a name that leaves the archive is an
// error. If a name has no slashes, backslashes separate folders, as some programs of Windows write.
func archivePath(name string) (string, error) {
	if !strings.Contains(name, "/") {
		name = strings.ReplaceAll(name, `\`, "/")
	}
	parts := strings.Split(name, "/")
	switch {
	case len(name) > maxPathBytes:
		return "", fmt.Errorf("the name %q has %d bytes: the limit is %d", abbreviate(name), len(name), maxPathBytes)
	case len(parts) > maxFolderDepth:
		return "", fmt.Errorf("the file %q lies in %d folders: the limit is %d", abbreviate(name), len(parts)-1, maxFolderDepth)
	case name == "", path.IsAbs(name), strings.Contains(name, "\x00"), slices.Contains(parts, ".."):
		return "", fmt.Errorf("the name %q leaves the archive: pack it again with relative names of files inside one folder", abbreviate(name))
	}
	if name = path.Clean(name); name == "." {
		return "", nil
	}
	return name, nil
}

// find returns the file or folder at a path.
func (a *archive) find(op, full string) (*member, error) {
	m := &a.root
	if rel := relative(a.given, full); rel != "." {
		for name := range strings.SplitSeq(rel, "/") {
			i, ok := slices.BinarySearchFunc(m.inside, name, func(m *member, name string) int { return cmp.Compare(m.name, name) })
			if !ok {
				return nil, &fs.PathError{Op: op, Path: full, Err: fs.ErrNotExist}
			}
			m = m.inside[i]
		}
	}
	return m, nil
}

// regular is find for a file.
func (a *archive) regular(full string) (*member, error) {
	m, err := a.find("open", full)
	if err == nil && m.folder {
		err = fmt.Errorf("%s is a folder, expected a file", full)
	}
	return m, err
}

func (a *archive) stat(full string) (fs.FileInfo, error) {
	m, err := a.find("stat", full)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (a *archive) list(folder string) ([]fs.DirEntry, error) {
	m, err := a.find("open", folder)
	if err != nil {
		return nil, err
	}
	entries := make([]fs.DirEntry, len(m.inside))
	for i, e := range m.inside {
		entries[i] = e
	}
	return entries, nil
}

func (a *archive) real(full string) (string, error) { return filepath.Clean(full), nil }

func (a *archive) read(full string, limit int64) ([]byte, error) {
	m, err := a.regular(full)
	if err != nil {
		return nil, err
	}
	data, err := a.contents(m, limit)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", full, err)
	}
	return data, nil
}

// open opens a file of the archive. Its contents are in memory if they are compressed.
func (a *archive) open(full string) (content, int64, error) {
	m, err := a.regular(full)
	if err != nil {
		return nil, 0, err
	}
	if m.method == methodStore {
		f, err := a.container.open()
		if err != nil {
			return nil, 0, err
		}
		return struct {
			io.ReaderAt
			io.Closer
		}{io.NewSectionReader(f, m.offset, m.size), f}, m.size, nil
	}
	data, err := a.read(full, maxEncodedBytes)
	return struct {
		io.ReaderAt
		io.Closer
	}{bytes.NewReader(data), io.NopCloser(nil)}, m.size, err
}

func (a *archive) image(full string) stored {
	m, err := a.regular(full)
	if err != nil {
		return nil
	}
	return archiveImage{a.container, m, full}
}

// top returns the folder that the archive stands for: the archive itself, or the only folder in it.
// A folder is not left out if its name is the name of a split, or if it holds images alone and so
// is a class.
func (a *archive) top() string {
	m, full := &a.root, a.given
	for {
		var only *member
		for _, e := range m.inside {
			switch {
			case hiddenName(e.name) != "":
			case only != nil || !e.folder:
				return full
			default:
				only = e
			}
		}
		if only == nil {
			return full
		}
		if _, ok := splitWord(only.name); ok {
			return full
		}
		if !slices.ContainsFunc(only.inside, func(e *member) bool { return hiddenName(e.name) == "" && (e.folder || !IsImageName(e.name)) }) {
			return full
		}
		m, full = only, filepath.Join(full, only.name)
	}
}
