package dataset

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// zipEncrypted is the flag of an encrypted file, and methodAES the method of one in AES.
const (
	zipEncrypted = 1
	methodAES    = 99
)

// listZip lists the files of a zip archive by the directory at its end.
func (x *index) listZip(ctx context.Context, r io.ReaderAt) error {
	z, err := zip.NewReader(r, x.size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // archivePath checks the paths
		return fmt.Errorf("the list of files at its end is missing or broken: it is cut short, still being written, or another kind of file; copy it again: %w", err)
	}
	for _, f := range z.File {
		if err := ctx.Err(); err != nil {
			return err
		}
		if strings.HasSuffix(f.Name, "/") || f.Mode().IsDir() {
			if _, err := x.add(f.Name, true); err != nil {
				return err
			}
			continue
		}
		if f.Mode()&fs.ModeType != 0 {
			x.links = append(x.links, f.Name)
			continue
		}
		if f.Flags&zipEncrypted != 0 || f.Method == methodAES {
			return fmt.Errorf("the file %q is encrypted: unpack the archive with its password, and give the folder", abbreviate(f.Name))
		}
		offset, err := f.DataOffset()
		if err != nil || offset < 0 || offset > x.size || f.CompressedSize64 > uint64(x.size-offset) || f.UncompressedSize64 > 1<<62 {
			return fmt.Errorf("the file %q is outside the archive or has no header: it is damaged, cut short or still being written; copy it again", abbreviate(f.Name))
		}
		m, err := x.add(f.Name, false)
		if err != nil {
			return err
		}
		if m == nil {
			continue
		}
		m.offset, m.packed, m.size = offset, int64(f.CompressedSize64), int64(f.UncompressedSize64)
		m.method, m.checked, m.sum = f.Method, true, f.CRC32
		if m.method == methodStore && m.packed != m.size {
			return fmt.Errorf("the file %q has %d bytes and, without compression, %d bytes: the archive is damaged", abbreviate(f.Name), m.size, m.packed)
		}
	}
	return nil
}
