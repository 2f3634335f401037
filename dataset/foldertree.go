package dataset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// folder is a folder with all files and folders below it.
type folder struct {
	at         files
	name, path string
	images     []string  // paths of the images directly in the folder, sorted by name
	folders    []*folder // sorted by the bytes of their names, as by Python's sorted
	// number of images in the folder and below it that are no regular files, such as links
	links int
	// number of files directly in the folder that are not images, by extension
	others map[string]int
	// paths of the files in others whose extension is in unsupportedFormats
	unsupported []string
	total       int // number of images in the folder and below it
}

// maxFolderDepth limits the number of folders above each other that are read.
const maxFolderDepth = 100

// maxFolderVisits limits how often one folder is read, because several links can lead to it. With
// two links to the next folder in each of n folders, the last one could be read 2ⁿ times.
const maxFolderVisits = 8

// scanWorkers is the number of folders that are read at the same time, and of files whose size is
// read. They wait for the disk or the network more than for a processor.
const scanWorkers = 16

// folderScanner reads trees of folders. Together they visit a folder at most maxFolderVisits times.
type folderScanner struct {
	at      files
	running chan struct{} // holds an element for each goroutine besides the first one

	mu     sync.Mutex     // guards the maps
	hidden map[string]int // counts of hidden and system names; nil means no counts
	visits map[string]int // by the real path of a folder
}

// newFolderScanner returns a scanner. hidden may be nil.
func newFolderScanner(at files, hidden map[string]int) *folderScanner {
	return &folderScanner{at: at, running: make(chan struct{}, scanWorkers-1), hidden: hidden, visits: map[string]int{}}
}

// scanFolder reads a folder and all folders below it. It follows links and skips hidden and system
// names.
func scanFolder(ctx context.Context, at files, path string, hidden map[string]int) (*folder, error) {
	return newFolderScanner(at, hidden).scan(ctx, path)
}

// scan is scanFolder for one of several folders.
func (s *folderScanner) scan(ctx context.Context, path string) (*folder, error) {
	real, err := s.at.real(path)
	if err != nil {
		return nil, fmt.Errorf("following %s: %w", path, err)
	}
	return s.below(ctx, path, real, nil)
}

// below is scan for a folder in other folders. real is its path without links. ancestors holds the
// real paths of the folders above. If the folder is one of them, its link makes a loop.
func (s *folderScanner) below(ctx context.Context, path, real string, ancestors []string) (*folder, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if slices.Contains(ancestors, real) {
		return nil, fmt.Errorf("folder %s is a link that leads back to %s: remove the link", path, real)
	}
	if len(ancestors) == maxFolderDepth {
		return nil, fmt.Errorf("folder %s lies in %d other folders, the limit: move it up", path, maxFolderDepth)
	}
	s.mu.Lock()
	s.visits[real]++
	visits := s.visits[real]
	s.mu.Unlock()
	if visits > maxFolderVisits {
		return nil, fmt.Errorf("folder %s leads to %s, to which %d other paths lead already: remove some of the links", path, real, maxFolderVisits)
	}
	ancestors = append(slices.Clip(ancestors), real) // goroutines share the old ones
	entries, err := s.at.list(path)
	if err != nil {
		return nil, err
	}
	f := &folder{at: s.at, name: filepath.Base(path), path: path, others: make(map[string]int)}
	var images []string // names
	var folders []subfolder
	hidden := map[string]int{}
	for _, e := range entries {
		name := e.Name()
		if key := hiddenName(name); key != "" {
			hidden[key]++
			continue
		}
		isFolder, err := leadsToFolder(s.at, path, e)
		if err != nil {
			return nil, err
		}
		switch {
		case isFolder:
			sub := subfolder{filepath.Join(path, name), filepath.Join(real, name)}
			if e.Type()&fs.ModeSymlink != 0 {
				if sub.real, err = s.at.real(sub.path); err != nil {
					return nil, fmt.Errorf("following %s: %w", sub.path, err)
				}
			}
			folders = append(folders, sub)
		case IsImageName(name):
			images = append(images, name)
			if !e.Type().IsRegular() {
				f.links++
			}
		default:
			ext := strings.ToLower(filepath.Ext(name))
			f.others[ext]++
			if _, ok := unsupportedFormats[ext]; ok {
				f.unsupported = append(f.unsupported, filepath.Join(path, name))
			}
		}
	}
	s.count(hidden)
	f.images, f.total = joinPaths(path, images), len(images)
	return f, s.addFolders(ctx, f, folders, ancestors)
}

// subfolder is a folder that is to be read: its path, and its path without links.
type subfolder struct{ path, real string }

// addFolders reads folders below f, some of them in goroutines of their own. It returns the error
// of the first folder that has one.
func (s *folderScanner) addFolders(ctx context.Context, f *folder, folders []subfolder, ancestors []string) error {
	read, errs := make([]*folder, len(folders)), make([]error, len(folders))
	var group sync.WaitGroup
	for i, sub := range folders {
		scan := func() { read[i], errs[i] = s.below(ctx, sub.path, sub.real, ancestors) }
		select {
		case s.running <- struct{}{}:
			group.Go(func() {
				defer func() { <-s.running }()
				scan()
			})
		default:
			scan()
		}
	}
	group.Wait()
	for i, sub := range read {
		if errs[i] != nil {
			return errs[i]
		}
		f.total, f.links = f.total+sub.total, f.links+sub.links
	}
	f.folders = read
	return nil
}

// count adds counts of hidden names.
func (s *folderScanner) count(hidden map[string]int) {
	if s.hidden == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, n := range hidden {
		s.hidden[name] += n
	}
}

// joinPaths returns the paths of names in a folder, as filepath.Join does. The paths are parts of
// one string, because a million strings take much memory.
func joinPaths(folder string, names []string) []string {
	prefix := strings.TrimSuffix(filepath.Join(folder, "x"), "x")
	size := len(names) * len(prefix)
	for _, name := range names {
		size += len(name)
	}
	var all strings.Builder
	all.Grow(size)
	for _, name := range names {
		all.WriteString(prefix)
		all.WriteString(name)
	}
	rest, paths := all.String(), make([]string, len(names))
	for i, name := range names {
		end := len(prefix) + len(name)
		paths[i], rest = rest[:end], rest[end:]
	}
	return paths
}

// systemNames lists the names, in lower case, of files and folders that systems and programs write
// beside the images of a user: thumbnails, recycle bins, and parts of archives of macOS.
var systemNames = []string{
	"thumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found",
}

// hiddenName returns the name under which a hidden or system file or folder is counted. It returns
// "" for every other name. All files "._x" of macOS count as one name.
func hiddenName(name string) string {
	switch {
	case strings.HasPrefix(name, "._"):
		return "._*"
	case strings.HasPrefix(name, "."), slices.Contains(systemNames, strings.ToLower(name)):
		return name
	}
	return ""
}

// leadsToFolder reports whether an entry is a folder or a link to a folder. It returns false for a
// dead link.
func leadsToFolder(at files, folder string, e fs.DirEntry) (bool, error) {
	if e.Type()&fs.ModeSymlink == 0 {
		return e.IsDir(), nil
	}
	full := filepath.Join(folder, e.Name())
	info, err := at.stat(full)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("following the link %s: %w", full, err)
	}
	return info.IsDir(), nil
}

// all returns the images in the folder and below it. The order is that of torchvision: folders
// sorted by path, files sorted by name.
func (f *folder) all() []string {
	if len(f.folders) == 0 {
		return f.images
	}
	files := make(map[string][]string)
	var add func(*folder)
	add = func(f *folder) {
		files[f.path] = f.images
		for _, sub := range f.folders {
			add(sub)
		}
	}
	add(f)
	var all []string
	for _, path := range slices.Sorted(maps.Keys(files)) {
		all = append(all, files[path]...)
	}
	return all
}

// countOthers adds the numbers of files in the folder and below it that are not images to counts,
// by extension.
func (f *folder) countOthers(counts map[string]int) {
	for ext, n := range f.others {
		counts[ext] += n
	}
	for _, sub := range f.folders {
		sub.countOthers(counts)
	}
}

// allUnsupported returns the paths in unsupported, of the folder and of all folders below it.
func (f *folder) allUnsupported() []string {
	paths := slices.Clone(f.unsupported)
	for _, sub := range f.folders {
		paths = append(paths, sub.allUnsupported()...)
	}
	return paths
}

// filled returns the subfolders that hold images, directly or below.
func (f *folder) filled() (out []*folder) {
	for _, sub := range f.folders {
		if sub.total > 0 {
			out = append(out, sub)
		}
	}
	return out
}

// folderNames returns the names of folders, at most five, for messages.
func folderNames(folders []*folder) string {
	var names []string
	for i, f := range folders {
		if i == 5 {
			names = append(names, fmt.Sprintf("and %d more", len(folders)-i))
			break
		}
		names = append(names, f.name)
	}
	return strings.Join(names, ", ")
}

// countNames returns the names and numbers of counts as text, the largest numbers first and at most
// ten, and their sum.
func countNames(counts map[string]int) (text string, total int) {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(counts[b]-counts[a], strings.Compare(a, b))
	})
	var parts []string
	for i, name := range names {
		total += counts[name]
		switch {
		case i < 10:
			parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
		case i == 10:
			parts = append(parts, fmt.Sprintf("and %d other names", len(names)-i))
		}
	}
	return strings.Join(parts, ", "), total
}
