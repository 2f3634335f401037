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
)

// remote is what the Hub says of a file before it is downloaded.
type remote struct {
	address string
	etag    string // of content: SHA-256 for large files, git's SHA-1 of a blob for others
	size    int64  // bytes; -1: not said
}

// An ETag becomes a file's name.
var safeETag = regexp.MustCompile(`^[0-9A-Za-z_-][0-9A-Za-z_.-]{0,127}$`)

// download brings one file of a commit into the cache, if it is not there.
func (c *Client) download(ctx context.Context, f folder, repo, commit, file string) error {
	if f.look(commit, file) == present {
		return nil // a commit's files never change
	}
	if err := c.downloadMissing(ctx, f, repo, commit, file); err != nil {
		return c.explainDownload(file, err)
	}
	return nil
}

func (c *Client) explainDownload(file string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("no space is left in the cache %s: make room, or set HF_HOME or HF_HUB_CACHE to a folder that has some; what has come is kept and gone on with: %w", c.Cache, err)
	}
	return fmt.Errorf("downloading %s: %w", file, err)
}

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
	unlock, err := lock(ctx, filepath.Join(f.locks, from.etag+".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if isFile(f.blob(from.etag)) { // another revision's, or another process has just got it
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

// ask requests a file's headers. For a large file the Hub redirects to a store,
// and its own answer, not the store's, has the checksum.
func (c *Client) ask(ctx context.Context, repo, commit, file string) (remote, error) {
	// Elements alone are escaped: slashes divide.
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
		return r, fmt.Errorf("%s answers with commit %q, asked for %s", response.Request.URL.Host, found, commit)
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
		return r, fmt.Errorf("%s names the content by the ETag %.60q, expected letters and digits: is HF_ENDPOINT the address of a Hub, and is no proxy or portal in between?", response.Request.URL.Host, etag)
	}
	if r.size, err = strconv.ParseInt(size, 10, 64); err != nil || r.size < 0 {
		r.size = -1
	}
	return r, nil
}

// partial is a file on its way: what has come lies in path, and is kept when the
// work is stopped. Nobody else reads it before it is whole and has been renamed.
type partial struct {
	client *Client
	file   string
	from   remote
	path   string

	f       *os.File
	done    int64     // bytes in f, and in sum
	sum     hash.Hash // that the ETag is of; nil if it is none
	joined  bool      // f has come in several pieces
	rejoins int       // how often the pieces did not fit
}

// open takes up what an earlier call has left.
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

func (p *partial) newSum() {
	_, err := hex.DecodeString(p.from.etag)
	switch {
	case err == nil && len(p.from.etag) == 64:
		p.sum = sha256.New()
	case err == nil && len(p.from.etag) == 40 && p.from.size >= 0:
		p.sum = sha1.New()
		fmt.Fprintf(p.sum, "blob %d\x00", p.from.size) // as git hashes content
	}
}

func (p *partial) restart() error {
	p.done, p.joined = 0, false
	p.newSum()
	if err := p.f.Truncate(0); err != nil {
		return err
	}
	_, err := p.f.Seek(0, io.SeekStart)
	return err
}

// advance asks for the rest and appends it; it ends without error once the file
// is whole and verified.
func (p *partial) advance(ctx context.Context) (progress bool, err error) {
	if p.done != p.from.size || p.done == 0 {
		before := p.done
		err := p.receive(ctx)
		if progress = p.done > before; err != nil {
			return progress, err
		}
	}
	return progress, p.verify()
}

func (p *partial) receive(ctx context.Context) error {
	header := http.Header{}
	if p.done > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", p.done))
	}
	response, err := p.client.get(ctx, http.MethodGet, p.from.address, header, true)
	var refused *StatusError
	if errors.As(err, &refused) && refused.Code == http.StatusRequestedRangeNotSatisfiable && p.done > 0 {
		// What is there is no beginning of what the server has.
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
			// The server sends all of it, from the start.
			if err := p.restart(); err != nil {
				return err
			}
			if response.StatusCode == http.StatusPartialContent {
				return &unreachable{fmt.Errorf("the server sends %q instead of what was asked for", response.Header.Get("Content-Range"))}
			}
		} else {
			p.joined = true
		}
	}
	if p.from.size < 0 && response.ContentLength >= 0 {
		p.from.size = p.done + response.ContentLength
	}
	if p.from.size < 0 && p.sum == nil {
		return errors.New("the server says neither the file's size nor its checksum, so that whole could not be told from cut short")
	}
	return p.copy(response.Body)
}

func (p *partial) copy(from io.Reader) error {
	buf := make([]byte, 1<<18)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if p.from.size >= 0 && p.done+int64(n) > p.from.size {
				return errors.Join(fmt.Errorf("more comes than the %d bytes that were announced", p.from.size), p.restart())
			}
			if _, err := p.f.Write(buf[:n]); err != nil {
				// What was written of it is not in the sum.
				return errors.Join(err, p.f.Truncate(p.done))
			}
			if p.sum != nil {
				p.sum.Write(buf[:n])
			}
			p.done += int64(n)
			if p.done != p.from.size { // that will be reported when it is verified
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

// verify compares the content with its checksum. What differs is thrown away;
// if it came in pieces, another attempt may be better, once.
func (p *partial) verify() error {
	if p.sum == nil {
		return nil
	}
	got := hex.EncodeToString(p.sum.Sum(nil))
	if got == p.from.etag {
		return nil
	}
	err := fmt.Errorf("the checksum of what came is %s, expected %s; it was thrown away. Try again; if it stays so, something between here and the server changes files", got, p.from.etag)
	if p.joined && p.rejoins == 0 {
		p.rejoins++
		err = &unreachable{err}
	}
	return errors.Join(err, p.restart())
}

func (p *partial) report(done, total int64) {
	if p.client.Progress != nil {
		p.client.Progress(Progress{p.file, done, total})
	}
}

// close brings the content to disk. Nothing is kept where there is none.
func (p *partial) close() error {
	err := errors.Join(p.f.Sync(), p.f.Close())
	if p.done == 0 && p.from.size != 0 {
		err = errors.Join(err, os.Remove(p.path))
	}
	return err
}
