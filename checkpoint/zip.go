package checkpoint

import (
	"archive/zip"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// archive is a zip file as PyTorch and NumPy write it. The names of its members are only names:
// nothing is written.
type archive struct {
	file    string
	names   []string // in the order of the zip's directory
	members map[string]blob
}

// openArchive checks the zip of size bytes: no two members have one name, none overlaps another or
// reaches beyond the file, and none inflates to more than the file's size justifies. PyTorch and
// NumPy's savez store members uncompressed. NumPy's savez_compressed deflates them, which makes
// weights hardly shorter, but one byte of deflate can stand for a thousand.
func openArchive(r io.ReaderAt, size int64, file string) (*archive, error) {
	fail := func(at int64, format string, args ...any) error {
		return &FormatError{File: file, Offset: at, Err: fmt.Errorf(format, args...)}
	}
	z, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // names never become paths
		return nil, fail(size, "it begins as a zip, but its directory, which is at the end, cannot be read: %w; the file is cut short or damaged, fetch it again", err)
	}
	a := &archive{file: file, members: make(map[string]blob, len(z.File))}
	var all []blob
	inflated, most := uint64(0), 1<<20+16*uint64(size)
	for _, m := range z.File {
		if strings.HasSuffix(m.Name, "/") && m.UncompressedSize64 == 0 {
			continue
		}
		at, err := m.DataOffset()
		if err != nil || at < 0 || at > size {
			return nil, fail(size, "the zip's member %.100q has no header where the directory says: the file is damaged", m.Name)
		}
		switch {
		case m.Flags&1 != 0:
			return nil, fail(at, "the zip's member %.100q is encrypted; decrypt the file first", m.Name)
		case m.Method != zip.Store && m.Method != zip.Deflate:
			return nil, fail(at, "the zip's member %.100q is compressed with method %d, expected 0 (stored) or 8 (deflated)", m.Name, m.Method)
		case m.CompressedSize64 > uint64(size-at):
			return nil, fail(at, "the zip's member %.100q has %d bytes from byte %d on, the file has %d: the file is cut short or damaged", m.Name, m.CompressedSize64, at, size)
		case m.Method == zip.Store && m.UncompressedSize64 != m.CompressedSize64:
			return nil, fail(at, "the zip's member %.100q is stored as %d bytes, but said to have %d", m.Name, m.CompressedSize64, m.UncompressedSize64)
		}
		if _, twice := a.members[m.Name]; twice {
			return nil, fail(at, "the zip has two members called %.100q, so that two programs could read two different files", m.Name)
		}
		b := blob{r: r, begin: at, size: int64(m.UncompressedSize64), member: m}
		if m.Method == zip.Deflate {
			if m.UncompressedSize64 > most-inflated {
				return nil, fail(at, "the zip's compressed members up to %.100q inflate to more than %d bytes, sixteen times the file; save it without compression", m.Name, most)
			}
			inflated += m.UncompressedSize64
		}
		a.names = append(a.names, m.Name)
		a.members[m.Name] = b
		if m.CompressedSize64 > 0 {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b blob) int { return cmp.Compare(a.begin, b.begin) })
	end := int64(math.MinInt64)
	for _, b := range all {
		if b.begin < end {
			return nil, fail(b.begin, "the zip's member %.100q begins inside the one before it", b.member.Name)
		}
		end = b.begin + int64(b.member.CompressedSize64)
	}
	return a, nil
}
