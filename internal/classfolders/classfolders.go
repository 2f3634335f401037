// Package classfolders makes class folders with many images in little time and space, for
// measurements of large data sets. Begin with [Make].
package classfolders

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// mostLinks is the number of links to one file. A file system may allow only 65,000 links.
const mostLinks = 50_000

// Make makes a folder in dir with the given number of class folders, and spreads the given number
// of images over them. It returns the path of the folder. The images are links to a few small files
// in dir, which hold no pixels: a data set that lists them can be opened, but not decoded. dir must
// exist and be empty.
func Make(ctx context.Context, dir string, images, classes int) (root string, err error) {
	root = filepath.Join(dir, "images")
	if err := os.Mkdir(root, 0o777); err != nil {
		return "", err
	}
	file := ""
	for i := range images {
		if err := ctx.Err(); err != nil {
			return "", fmt.Errorf("making class folders: %w", err)
		}
		if i%mostLinks == 0 {
			file = filepath.Join(dir, fmt.Sprint("image", i/mostLinks))
			if err := os.WriteFile(file, []byte("image"), 0o666); err != nil {
				return "", err
			}
		}
		class := filepath.Join(root, fmt.Sprintf("n%05d", i*classes/images))
		link := filepath.Join(class, fmt.Sprintf("n%08d.png", i))
		err := os.Link(file, link)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.Mkdir(class, 0o777); err == nil {
				err = os.Link(file, link)
			}
		}
		if err != nil {
			return "", err
		}
	}
	return root, nil
}
