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

// remote describes a file of the Hub before it is downloaded.
type remote struct {
	address string
	etag    string // checksum: SHA-256 for large files, git's SHA-1 of a blob for others
	size    int64  // bytes; -1: unknown
}

// safeETag matches ETags that can be the name of a file.
var safeETag = regexp.MustCompile(`^[0-9A-Za-z_-][0-9A-Za-z_.-]{0,127}$`)

// lockRetry is the time between two attempts to take a lock.
const lockRetry = 100 * time.Millisecond

// download downloads one file of a commit if the cache lacks it.
func (c *Client) download(ctx context.Context, f folder, repo, commit, file string) error {
	if f.look(commit, file) == present {
		return nil // the files of a commit never change
	}
	if err := c.downloadMissing(ctx, f, repo, commit, file); err != nil {
		return c.explainDownload(file, err)
	}
	return nil
}

// explainDownload adds the file, and for a full disk advice, to an error.
func (c *Client) explainDownload(file string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("no space is left in the cache %s: make room, or set HF_HOME or HF_HUB_CACHE to a folder on another disk; the next download continues this one: %w", c.Cache, err)
	}
	return fmt.Errorf("downloading %s: %w", file, err)
}

// downloadMissing downloads a file that the cache lacks. It waits while another process, such as a
// library of Hugging Face, downloads the same content.
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
	// The file of the lock stays: if it were removed, two processes could hold locks of one name.
	lock := flock.New(filepath.Join(f.locks, from.etag+".lock"), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o666))
	if _, err := lock.TryLockContext(ctx, lockRetry); err != nil {
		return fmt.Errorf("locking %s: %w", lock.Path(), err)
	}
	defer func() { _ = lock.Unlock() }() // the end of the process releases it too
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

// ask requests the headers of a file. For a large file the Hub redirects to a store. The checksum
// is in the answer of the Hub, not in that of the store.
func (c *Client) ask(ctx context.Context, repo, commit, file string) (remote, error) {
	// The elements of the path are escaped, the slashes are not.
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
		return r, fmt.Errorf("%s answers with commit %q, expected %s", response.Request.URL.Host, found, commit)
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
		return r, fmt.Errorf("%s answers with the ETag %.60q, expected letters and digits: check that HF_ENDPOINT is the address of a Hub, and that no proxy or portal answers in its place", response.Request.URL.Host, etag)
	}
	if r.size, err = strconv.ParseInt(size, 10, 64); err != nil || r.size < 0 {
		r.size = -1
	}
	return r, nil
}

// partial is a file that is being downloaded. The bytes that have arrived are in path, and stay
// there if the download is interrupted. No other process reads the file before it is complete and
// renamed.
type partial struct {
	client *Client
	file   string // path in the repository
	from   remote
	path   string

	f       *os.File
	done    int64     // bytes in f and in sum
	sum     hash.Hash // checksum that the ETag holds; nil if it holds none
	joined  bool      // f has been downloaded in several pieces
	rejoins int       // number of times that the pieces had a wrong checksum
}

// open opens the file and reads the bytes that an earlier download has left.
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
	p.joined = p.done > 0
	return nil
}

// newSum starts the checksum of the kind that the ETag holds.
func (p *partial) newSum() {
	_, err := hex.DecodeString(p.from.etag)
	switch {
	case err == nil && len(p.from.etag) == 64:
		p.sum = sha256.New()
	case err == nil && len(p.from.etag) == 40 && p.from.size >= 0:
		p.sum = sha1.New()
		fmt.Fprintf(p.sum, "blob %d\x00", p.from.size) // git hashes this header before the content
	}
}

// restart discards the bytes that have arrived.
func (p *partial) restart() error {
	p.done, p.joined = 0, false
	p.newSum()
	if err := p.f.Truncate(0); err != nil {
		return err
	}
	_, err := p.f.Seek(0, io.SeekStart)
	return err
}

// advance downloads the missing bytes. The error is nil once the file is complete and verified.
// more reports whether bytes have arrived.
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
			// The server sends the whole file, from the start.
			if err := p.restart(); err != nil {
				return err
			}
			if response.StatusCode == http.StatusPartialContent {
				return &unreachable{fmt.Errorf("the server sends the range %q, which is not the requested one", response.Header.Get("Content-Range"))}
			}
		} else {
			p.joined = true
		}
	}
	if p.from.size < 0 && response.ContentLength >= 0 {
		p.from.size = p.done + response.ContentLength
	}
	if p.from.size < 0 && p.sum == nil {
		return errors.New("the server gives neither the size nor the checksum of the file, so an incomplete download could not be recognised")
	}
	return p.copy(response.Body)
}

// copy appends the bytes of a response.
func (p *partial) copy(from io.Reader) error {
	buf := make([]byte, 1<<18)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if p.from.size >= 0 && p.done+int64(n) > p.from.size {
				return errors.Join(fmt.Errorf("the server sends more than the %d bytes that it announced", p.from.size), p.restart())
			}
			if _, err := p.f.Write(buf[:n]); err != nil {
				// Bytes that were written are not in the checksum.
				return errors.Join(err, p.f.Truncate(p.done))
			}
			if p.sum != nil {
				p.sum.Write(buf[:n])
			}
			p.done += int64(n)
			if p.done != p.from.size { // the last event follows when the file is verified
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

// verify compares the content with its checksum. Content with a wrong checksum is discarded. If it
// was downloaded in pieces, one more attempt follows.
func (p *partial) verify() error {
	if p.sum == nil {
		return nil
	}
	got := hex.EncodeToString(p.sum.Sum(nil))
	if got == p.from.etag {
		return nil
	}
	err := fmt.Errorf("the checksum of the downloaded file is %s, expected %s; the file was discarded. Try again; if the error stays, a proxy changes the file", got, p.from.etag)
	if p.joined && p.rejoins == 0 {
		p.rejoins++
		err = &unreachable{err}
	}
	return errors.Join(err, p.restart())
}

// report reports how many bytes of the file have arrived.
func (p *partial) report(done, total int64) {
	p.client.Progress.Report(progress.Event{Stage: progress.Download, Item: p.file, Done: done, Total: total})
}

// close writes the content to disk and closes the file. It removes the file if no byte has arrived.
func (p *partial) close() error {
	err := errors.Join(p.f.Sync(), p.f.Close())
	if p.done == 0 && p.from.size != 0 {
		err = errors.Join(err, os.Remove(p.path))
	}
	return err
}
