package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/progress"
)

// remote describes a file on the server.
type remote struct {
	file    string // path in the repository
	address string
	etag    string // checksum: SHA-256 for a large file, the SHA-1 of a git blob for others
	size    int64  // in bytes
}

// safeETag matches the ETags that are safe as the name of a file.
var safeETag = regexp.MustCompile(`^[0-9A-Za-z_-][0-9A-Za-z_.-]{0,127}$`)

// incomplete is the end of the name of a file during its download.
const incomplete = ".incomplete"

// lockRetry is the time between two attempts to take a lock.
const lockRetry = 100 * time.Millisecond

// maxRestarts is the number of times that the download of a file may begin again because the server
// does not continue it.
const maxRestarts = 3

// downloadFiles downloads the files of a commit that the cache does not have, or has with another
// size than the Hub states. It first asks for all sizes, and downloads nothing if the disk is too
// small.
func (c *Client) downloadFiles(ctx context.Context, f folder, repo string, info *repoInfo, files []string) error {
	var missing []remote
	for _, file := range files {
		size, have := info.files[file], sizeOf(f.snapshot(info.commit, file))
		if have >= 0 && (size < 0 || size == have) {
			continue // the files of a commit never change
		}
		var from remote
		err := c.retry(ctx, func() (_ bool, err error) {
			from, err = c.ask(ctx, repo, info.commit, file)
			return false, err
		})
		if err != nil {
			return c.explainDownload(file, err)
		}
		missing = append(missing, from)
	}
	if len(missing) == 0 {
		return nil // the cache may be read-only
	}
	if err := c.prepare(f, missing); err != nil {
		return err
	}
	for _, from := range missing {
		if err := c.download(ctx, f, info.commit, from); err != nil {
			return c.explainDownload(from.file, err)
		}
	}
	return nil
}

// prepare creates the folders for a download. It returns an error if the disk has too little space.
func (c *Client) prepare(f folder, missing []remote) error {
	for _, dir := range []string{filepath.Join(f.root, "blobs"), f.locks} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return c.explainCache(err)
		}
	}
	free := freeSpace(f.root)
	left := free
	for _, from := range missing {
		blob := f.blob(from.etag)
		if sizeOf(blob) == from.size {
			continue
		}
		need := from.size - max(0, min(from.size, sizeOf(blob+incomplete)))
		if need > left {
			return fmt.Errorf("downloading %s: the file needs %d bytes, and %d bytes are free on the disk of the cache %s, of which the other files need %d; delete files, or set HF_HOME or HF_HUB_CACHE to a folder on another disk", printable(from.file), need, free, c.Cache, free-left)
		}
		left -= need
	}
	return nil
}

// explainDownload adds the name of the file to an error. For problems of the cache and for an
// interruption it also adds what the user can do.
func (c *Client) explainDownload(file string, err error) error {
	err = c.explainCache(err)
	if _, ok := errors.AsType[*interruptedError](err); ok {
		err = fmt.Errorf("%w; the next download continues this one", err)
	}
	return fmt.Errorf("downloading %s: %w", printable(file), err)
}

// explainCache adds to an error of the cache what the user can do.
func (c *Client) explainCache(err error) error {
	switch {
	case temporary(err): // a network error may have the same cause
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("no space is left in the cache %s: %w; delete files, or set HF_HOME or HF_HUB_CACHE to a folder on another disk; the next download continues this one", c.Cache, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the cache %s is not writable: %w; set HF_HOME or HF_HUB_CACHE to a folder that you may write", c.Cache, err)
	}
	return err
}

// download downloads a file that the cache does not have. If another process, such as a library of
// Hugging Face, downloads the same content, download waits for it.
func (c *Client) download(ctx context.Context, f folder, commit string, from remote) error {
	// The lock file is not removed. After a removal, two processes could lock two files of the same
	// name.
	lock := flock.New(filepath.Join(f.locks, from.etag+".lock"), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o666))
	if _, err := lock.TryLockContext(ctx, lockRetry); err != nil {
		if ctx.Err() != nil {
			err = interrupted(ctx, c.work())
		}
		return fmt.Errorf("locking %s: %w", lock.Path(), err)
	}
	defer func() { _ = lock.Unlock() }() // if it fails, the end of the process releases the lock
	// Another process may have downloaded the file while this one waited for the lock.
	if sizeOf(f.snapshot(commit, from.file)) == from.size {
		return nil
	}
	// Another revision may have the same content. A blob of another size is damaged, and the
	// download replaces it.
	blob := f.blob(from.etag)
	if sizeOf(blob) == from.size {
		return f.link(from.etag, commit, from.file)
	}
	p := &partial{client: c, from: from, path: blob + incomplete}
	if err := p.open(ctx); err != nil {
		return err
	}
	err := c.retry(ctx, func() (bool, error) { return p.advance(ctx) })
	if err == nil {
		err = p.f.Sync()
	}
	if err = errors.Join(err, p.close()); err != nil {
		return err
	}
	if err := atomicfile.Rename(p.path, blob); err != nil {
		return err
	}
	if err := f.link(from.etag, commit, from.file); err != nil {
		return err
	}
	p.report(p.done)
	return nil
}

// ask requests the size and the checksum of a file. For a large file the Hub redirects to a store
// on another host. The checksum is in the response of the Hub, not in the response of the store.
func (c *Client) ask(ctx context.Context, repo, commit, file string) (remote, error) {
	// Escape the elements of the path, but not the slashes.
	elements := strings.Split(file, "/")
	for i, e := range elements {
		elements[i] = url.PathEscape(e)
	}
	r := remote{file: file, address: fmt.Sprintf("%s/%s/resolve/%s/%s", c.Endpoint, repo, commit, strings.Join(elements, "/"))}
	response, err := c.get(ctx, http.MethodHead, r.address, nil, false)
	if err != nil {
		return r, err
	}
	response.Body.Close()
	h, host := response.Header, printable(response.Request.URL.Host)
	if found := h.Get("X-Repo-Commit"); found != "" && found != commit {
		return r, fmt.Errorf("%s sends a file of commit %.60q; expected commit %s", host, found, commit)
	}
	etag, size := h.Get("X-Linked-Etag"), h.Get("X-Linked-Size")
	if etag == "" {
		etag = h.Get("ETag")
	}
	if size == "" && response.StatusCode == http.StatusOK {
		size = h.Get("Content-Length")
	}
	r.etag = strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
	if !safeETag.MatchString(r.etag) || !portable(r.etag) {
		return r, fmt.Errorf("%s sends the ETag %.60q; expected letters and digits; %s", host, etag, checkEndpoint)
	}
	if r.size, err = strconv.ParseInt(size, 10, 64); err != nil || r.size < 0 {
		return r, fmt.Errorf("%s states the size %.60q of the file; expected a number of bytes; %s", host, size, checkEndpoint)
	}
	text := strings.HasSuffix(file, indexSuffix) || slices.Contains(sideFiles, path.Base(file))
	if text && r.size > maxText {
		return r, inputErrorf("the file has %d bytes; expected at most %d; choose another repository or revision", r.size, maxText)
	}
	return r, nil
}

// partial is a file during its download. The received bytes are in the file path. They stay there
// if the download is interrupted, so that the next download continues from them. No other process
// reads the file before it is complete and renamed.
type partial struct {
	client *Client
	from   remote
	path   string

	f    *os.File
	done int64 // number of bytes in f, all of which are in sum
	top  int64 // the largest done so far
	// computes the checksum that the ETag holds; nil if the ETag is not a checksum
	sum      hash.Hash
	resumed  bool // the bytes in f come from more than one response
	retried  bool // a resumed file had a wrong checksum and was downloaded again
	restarts int  // number of calls of restart
}

// open opens the file and reads the bytes that an earlier download has received.
func (p *partial) open(ctx context.Context) (err error) {
	if p.f, err = openRegular(p.path); err != nil {
		return err
	}
	p.sum = newSum(p.from.etag, p.from.size)
	var sum io.Writer = io.Discard
	if p.sum != nil {
		sum = p.sum
	}
	stat, err := p.f.Stat()
	if err == nil && stat.Size() > p.from.size {
		err = p.discard()
	} else if err == nil {
		p.done, err = copyUntil(ctx, p.client.work(), sum, p.f)
	}
	if err != nil {
		return errors.Join(err, p.f.Close())
	}
	p.resumed, p.top = p.done > 0, p.done
	return nil
}

// openRegular opens a file for reading and writing, or creates it. Another program may have placed
// something else at path, and the download must neither write through a link nor wait for a pipe.
func openRegular(path string) (*os.File, error) {
	check := func(stat os.FileInfo, err error) error {
		if err == nil && !stat.Mode().IsRegular() {
			return fmt.Errorf("%s has mode %v; expected a regular file; remove it", path, stat.Mode())
		}
		return err
	}
	if err := check(os.Lstat(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|noFollow, 0o666)
	if err != nil {
		return nil, err
	}
	if err := check(f.Stat()); err != nil { // it may have changed since
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// newSum starts a checksum of the kind that the ETag of a file of size bytes holds. It returns nil
// if the ETag is not a checksum.
func newSum(etag string, size int64) hash.Hash {
	_, err := hex.DecodeString(etag)
	switch {
	case err == nil && len(etag) == 64:
		return sha256.New()
	case err == nil && len(etag) == 40:
		sum := sha1.New()
		// git computes the SHA-1 of this header and the content
		fmt.Fprintf(sum, "blob %d\x00", size)
		return sum
	}
	return nil
}

// copyUntil copies from src to dst until src or ctx ends, and returns the number of bytes. work is
// the word for what ends with ctx.
func copyUntil(ctx context.Context, work string, dst io.Writer, src io.Reader) (int64, error) {
	var done int64
	for ctx.Err() == nil {
		n, err := io.CopyN(dst, src, 1<<20)
		if done += n; err == io.EOF {
			return done, nil
		}
		if err != nil {
			return done, err
		}
	}
	return done, interrupted(ctx, work)
}

// discard discards the received bytes.
func (p *partial) discard() error {
	p.done, p.resumed = 0, false
	p.sum = newSum(p.from.etag, p.from.size)
	if err := p.f.Truncate(0); err != nil {
		return err
	}
	_, err := p.f.Seek(0, io.SeekStart)
	return err
}

// restart discards the received bytes because of an answer that does not continue them. The error
// is temporary until the download has begun again maxRestarts times.
func (p *partial) restart(answer error) error {
	if err := p.discard(); err != nil {
		return err
	}
	if p.restarts++; p.restarts > maxRestarts {
		return fmt.Errorf("%w; the download began again %d times; try again later, or over another network", answer, maxRestarts)
	}
	return &unreachable{answer}
}

// advance downloads the missing bytes with one request. It returns nil if the file is then complete
// and its checksum is correct. more reports whether the file now has more bytes than ever before. A
// slow response must add at least the bytes of one window.
func (p *partial) advance(ctx context.Context) (more bool, err error) {
	if p.done < p.from.size {
		err = p.receive(ctx)
		gained := p.done - p.top
		p.top = max(p.top, p.done)
		more = gained > 0
		if slow, ok := errors.AsType[*slowError](err); ok {
			more = gained >= slow.least
		}
		if err != nil {
			return more, err
		}
	}
	return more, p.verify()
}

// receive requests the missing bytes and appends them.
func (p *partial) receive(ctx context.Context) error {
	header := http.Header{}
	if p.done > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", p.done))
	}
	response, err := p.client.get(ctx, http.MethodGet, p.from.address, header, true)
	if refused, ok := errors.AsType[*statusError](err); ok && refused.code == http.StatusRequestedRangeNotSatisfiable && p.done > 0 {
		return p.restart(err) // the bytes on disk are not the beginning of the file on the server
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	sent := response.Header.Get("Content-Range")
	switch code := response.StatusCode; {
	case code == http.StatusPartialContent && p.done > 0 && strings.HasPrefix(sent, fmt.Sprintf("bytes %d-", p.done)):
		p.resumed = true
	case code == http.StatusOK && p.done > 0: // the whole file
		if err := p.restart(errors.New("the server does not continue a download")); !temporary(err) {
			return err
		}
	case code != http.StatusOK:
		return p.restart(fmt.Errorf("the server answers %.60q with the range %.60q, which was not requested", response.Status, sent))
	}
	return p.copy(response.Body)
}

// copy appends the bytes of a response to the file.
func (p *partial) copy(from io.Reader) error {
	buf := make([]byte, 1<<18)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if p.done+int64(n) > p.from.size {
				return errors.Join(fmt.Errorf("the server sends more than the %d bytes that it announced; try again later", p.from.size), p.discard())
			}
			if _, err := p.f.Write(buf[:n]); err != nil {
				// Remove the bytes that were written, because they are not in the checksum.
				return errors.Join(err, p.f.Truncate(p.done))
			}
			if p.sum != nil {
				p.sum.Write(buf[:n])
			}
			p.done += int64(n)
			if p.done != p.from.size { // the last event follows after the checksum is verified
				p.report(p.done)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if p.done < p.from.size {
		return &unreachable{fmt.Errorf("the connection ended after %d of %d bytes", p.done, p.from.size)}
	}
	return nil
}

// verify compares the content of the file with its checksum. It discards content with a wrong
// checksum. If the content came from more than one response, retry downloads the file once more.
func (p *partial) verify() error {
	if p.sum == nil {
		return nil
	}
	got := hex.EncodeToString(p.sum.Sum(nil))
	if got == p.from.etag {
		return nil
	}
	err := fmt.Errorf("the checksum of the downloaded file is %s, expected %s; the file was discarded; try again, and check that no proxy changes the file if the error occurs again", got, p.from.etag)
	if p.resumed && !p.retried {
		p.retried = true
		err = &unreachable{err}
	}
	return errors.Join(err, p.discard())
}

// report reports the number of bytes of the file that were received.
func (p *partial) report(done int64) {
	p.client.Progress.Report(progress.Event{Stage: progress.Download, Item: p.from.file, Done: done, Total: p.from.size})
}

// close closes the file. It removes the file if no byte was received.
func (p *partial) close() error {
	err := p.f.Close()
	if p.done == 0 && p.from.size != 0 {
		err = errors.Join(err, os.Remove(p.path))
	}
	return err
}
