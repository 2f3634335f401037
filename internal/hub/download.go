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
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/sptune/spt/progress"
)

// remote describes a file on the server.
type remote struct {
	address string
	etag    string // checksum: SHA-256 for a large file, the SHA-1 of a git blob for others
	size    int64  // in bytes; -1: unknown
}

// safeETag matches the ETags that are safe as the name of a file.
var safeETag = regexp.MustCompile(`^[0-9A-Za-z_-][0-9A-Za-z_.-]{0,127}$`)

// lockRetry is the time between two attempts to take a lock.
const lockRetry = 100 * time.Millisecond

// download downloads one file of a commit if the cache does not have it.
func (c *Client) download(ctx context.Context, f folder, repo, commit, file string) error {
	if f.look(commit, file) == present {
		return nil // the files of a commit never change
	}
	if err := c.downloadMissing(ctx, f, repo, commit, file); err != nil {
		return c.explainDownload(file, err)
	}
	return nil
}

// explainDownload adds the name of the file to an error. For a full disk and for an interruption it
// also adds what the user can do.
func (c *Client) explainDownload(file string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("no space is left in the cache %s: %w; delete files, or set HF_HOME or HF_HUB_CACHE to a folder on another disk; the next download continues this one", c.Cache, err)
	}
	var stopped *interruptedError
	if errors.As(err, &stopped) {
		err = fmt.Errorf("%w; the next download continues this one", err)
	}
	return fmt.Errorf("downloading %s: %w", file, err)
}

// downloadMissing downloads a file that the cache does not have. If another process, such as a
// library of Hugging Face, downloads the same content, downloadMissing waits for it.
func (c *Client) downloadMissing(ctx context.Context, f folder, repo, commit, file string) error {
	var from remote
	err := c.retry(ctx, func() (_ bool, err error) {
		from, err = c.ask(ctx, repo, commit, file)
		return false, err
	})
	if err != nil {
		return err
	}
	for _, dir := range []string{filepath.Join(f.root, "blobs"), f.locks} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
	}
	// The lock file is not removed. After a removal, two processes could lock two files of the same
	// name.
	lock := flock.New(filepath.Join(f.locks, from.etag+".lock"), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o666))
	if _, err := lock.TryLockContext(ctx, lockRetry); err != nil {
		if ctx.Err() != nil {
			err = interrupted(ctx)
		}
		return fmt.Errorf("locking %s: %w", lock.Path(), err)
	}
	defer func() { _ = lock.Unlock() }() // if it fails, the end of the process releases the lock
	// Another revision may have the same content, or another process may have downloaded it.
	if isFile(f.blob(from.etag)) {
		return f.link(from.etag, commit, file)
	}
	p := &partial{client: c, file: file, from: from, path: f.blob(from.etag) + ".incomplete"}
	if err := p.open(); err != nil {
		return err
	}
	err = c.retry(ctx, func() (bool, error) { return p.advance(ctx) })
	if err = errors.Join(err, p.close()); err != nil {
		return err
	}
	if err := os.Rename(p.path, f.blob(from.etag)); err != nil {
		return err
	}
	if err := f.link(from.etag, commit, file); err != nil {
		return err
	}
	p.report(p.done, p.done)
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
	r := remote{address: fmt.Sprintf("%s/%s/resolve/%s/%s", c.Endpoint, repo, commit, strings.Join(elements, "/"))}
	response, err := c.get(ctx, http.MethodHead, r.address, nil, false)
	if err != nil {
		return r, err
	}
	response.Body.Close()
	h := response.Header
	if found := h.Get("X-Repo-Commit"); found != "" && found != commit {
		return r, fmt.Errorf("%s sends a file of commit %q; expected commit %s", response.Request.URL.Host, found, commit)
	}
	etag, size := h.Get("X-Linked-Etag"), h.Get("X-Linked-Size")
	if etag == "" {
		etag = h.Get("ETag")
	}
	if size == "" && response.StatusCode == http.StatusOK {
		size = h.Get("Content-Length")
	}
	r.etag = strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
	if !safeETag.MatchString(r.etag) {
		return r, fmt.Errorf("%s sends the ETag %.60q; expected letters and digits; check that HF_ENDPOINT is the address of a Hub, and that no proxy or login page answers instead of it", response.Request.URL.Host, etag)
	}
	if r.size, err = strconv.ParseInt(size, 10, 64); err != nil || r.size < 0 {
		r.size = -1
	}
	return r, nil
}

// partial is a file during its download. The received bytes are in the file path. They stay there
// if the download is interrupted, so that the next download continues from them. No other process
// reads the file before it is complete and renamed.
type partial struct {
	client *Client
	file   string // path in the repository
	from   remote
	path   string

	f    *os.File
	done int64 // number of bytes in f, all of which are in sum
	// computes the checksum that the ETag holds; nil if the ETag is not a checksum
	sum     hash.Hash
	resumed bool // the bytes in f come from more than one response
	retried bool // a resumed file had a wrong checksum and was downloaded again
}

// open opens the file and reads the bytes that an earlier download has received.
func (p *partial) open() (err error) {
	if p.f, err = os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o666); err != nil {
		return err
	}
	p.newSum()
	var sum io.Writer = io.Discard
	if p.sum != nil {
		sum = p.sum
	}
	if p.done, err = io.Copy(sum, p.f); err == nil && p.from.size >= 0 && p.done > p.from.size {
		err = p.restart()
	}
	if err != nil {
		return errors.Join(err, p.f.Close())
	}
	p.resumed = p.done > 0
	return nil
}

// newSum starts a new checksum of the kind that the ETag holds.
func (p *partial) newSum() {
	_, err := hex.DecodeString(p.from.etag)
	switch {
	case err == nil && len(p.from.etag) == 64:
		p.sum = sha256.New()
	case err == nil && len(p.from.etag) == 40 && p.from.size >= 0:
		p.sum = sha1.New()
		// git computes the SHA-1 of this header and the content
		fmt.Fprintf(p.sum, "blob %d\x00", p.from.size)
	}
}

// restart discards the received bytes.
func (p *partial) restart() error {
	p.done, p.resumed = 0, false
	p.newSum()
	if err := p.f.Truncate(0); err != nil {
		return err
	}
	_, err := p.f.Seek(0, io.SeekStart)
	return err
}

// advance downloads the missing bytes with one request. It returns nil if the file is then complete
// and its checksum is correct. more reports whether the request received bytes.
func (p *partial) advance(ctx context.Context) (more bool, err error) {
	if p.done != p.from.size || p.done == 0 {
		before := p.done
		err := p.receive(ctx)
		if more = p.done > before; err != nil {
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
	var refused *statusError
	if errors.As(err, &refused) && refused.code == http.StatusRequestedRangeNotSatisfiable && p.done > 0 {
		// The bytes on disk are not the beginning of the file on the server.
		if e := p.restart(); e != nil {
			return e
		}
		return &unreachable{err}
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if p.done > 0 {
		var from int64
		if _, err := fmt.Sscanf(response.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != p.done || response.StatusCode != http.StatusPartialContent {
			// The response is not the requested range. Unless it is another range, it is the whole
			// file.
			if err := p.restart(); err != nil {
				return err
			}
			if response.StatusCode == http.StatusPartialContent {
				return &unreachable{fmt.Errorf("the server sends the range %q, which was not requested", response.Header.Get("Content-Range"))}
			}
		} else {
			p.resumed = true
		}
	}
	if p.from.size < 0 && response.ContentLength >= 0 {
		p.from.size = p.done + response.ContentLength
	}
	if p.from.size < 0 && p.sum == nil {
		return errors.New("the server sends neither the size nor the checksum of the file, so spt cannot tell whether the download is complete; check that HF_ENDPOINT is the address of a Hub")
	}
	return p.copy(response.Body)
}

// copy appends the bytes of a response to the file.
func (p *partial) copy(from io.Reader) error {
	buf := make([]byte, 1<<18)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if p.from.size >= 0 && p.done+int64(n) > p.from.size {
				return errors.Join(fmt.Errorf("the server sends more than the %d bytes that it announced; try again later", p.from.size), p.restart())
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
				p.report(p.done, max(p.from.size, 0))
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if p.from.size >= 0 && p.done < p.from.size {
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
	return errors.Join(err, p.restart())
}

// report reports the number of bytes of the file that were received.
func (p *partial) report(done, total int64) {
	p.client.Progress.Report(progress.Event{Stage: progress.Download, Item: p.file, Done: done, Total: total})
}

// close syncs the file to disk and closes it. It removes the file if no byte was received.
func (p *partial) close() error {
	err := errors.Join(p.f.Sync(), p.f.Close())
	if p.done == 0 && p.from.size != 0 {
		err = errors.Join(err, os.Remove(p.path))
	}
	return err
}
