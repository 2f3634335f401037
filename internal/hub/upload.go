package hub

import (
	"cmp"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/sptune/spt/progress"
)

const (
	// maxUploadFiles is the largest number of files of an upload.
	maxUploadFiles = 10_000
	// maxRegular is the largest size in bytes of a file that the Hub wants inside a commit, and
	// maxCommit that of all of them together. The Hub wants at most 10 MiB for a file. The content
	// of these files is in memory.
	maxRegular = 16 << 20
	maxCommit  = 64 << 20
	// maxRaces is the largest number of commits of others during an upload.
	maxRaces = 5
	// sampleSize is the size in bytes of the start of a file, from which the Hub guesses its kind.
	sampleSize = 512
)

// commitSummary is the first line of the message of a commit.
const commitSummary = "Upload with spt"

// State tells how a file of an upload compares with the file of the same path on the Hub.
type State string

// The states.
const (
	Added     State = "new"
	Changed   State = "changed"
	Unchanged State = "unchanged"
)

// UploadFile is a file of an [Upload].
type UploadFile struct {
	// Path is the path in the folder and in the repository, with slashes.
	Path string `json:"path"`
	// Bytes is the size in bytes.
	Bytes int64 `json:"bytes"`
	// State tells whether the repository has the file. An unchanged file is not uploaded.
	State State `json:"state"`

	info    fs.FileInfo // of the file when it was hashed
	sha256  string
	gitBlob string // SHA-1 of the git blob; "" for a file of more than maxRegular bytes
	sample  []byte // start of the file
	large   bool   // the Hub wants the file in its store, not in the commit
}

// matches reports whether sum, a checksum of repoInfo.sums, is that of the file.
func (f *UploadFile) matches(sum string) bool {
	return sum != "" && (sum == f.sha256 || sum == f.gitBlob)
}

// Upload is a planned upload of a folder. [Client.PlanUpload] returns one, and [Upload.Run] uploads
// it. Nothing has been sent before Run.
type Upload struct {
	// Repo is the repository, OWNER/NAME, and Branch the branch that receives the commit.
	Repo   string `json:"repo"`
	Branch string `json:"branch"`
	// NewRepo and NewBranch report that Run makes the repository or the branch.
	NewRepo   bool `json:"new_repo,omitempty"`
	NewBranch bool `json:"new_branch,omitempty"`
	// Private reports that the repository is private, or will be.
	Private bool `json:"private"`
	// Files lists the files of the folder, sorted by path.
	Files []*UploadFile `json:"files"`

	client *Client
	dir    string
	parent string            // commit of the branch
	sums   map[string]string // see repoInfo
	stored map[string]bool   // files whose content is in the store
}

// Uploaded is the result of [Upload.Run].
type Uploaded struct {
	// Address is the address of the web page of the branch.
	Address string `json:"address"`
	// Commit is the commit of the branch after the upload.
	Commit string `json:"commit"`
	// Made reports whether the upload made a commit. It makes none if all files are unchanged.
	Made bool `json:"made"`
	// Ignored lists the files that the Hub ignored because of a file .gitignore.
	Ignored []string `json:"ignored,omitempty"`
}

// PlanUpload plans to upload the files of the folder dir, and of the folders in it, to the
// repository and the branch of r. It reads and hashes the files, and asks the Hub which of them
// differ. r names no file. A repository that does not exist becomes private, or public if public is
// true; an existing repository keeps its visibility.
//
// A symbolic link and everything else that is not a regular file is an error. Folders called .git
// and .cache, which belong to git and to the libraries of Hugging Face, are left out. Files that
// only the repository has stay there. An error that the user can correct is an [*InputError].
func (c *Client) PlanUpload(ctx context.Context, dir string, r Reference, public bool) (*Upload, error) {
	client := *c
	client.uploads = true
	u := &Upload{Repo: r.Repo, Branch: cmp.Or(r.Revision, "main"), client: &client, dir: dir, stored: map[string]bool{}}
	if err := u.plan(ctx, r, public); err != nil {
		return nil, explainUpload(fmt.Errorf("planning the upload of %s to %s: %w", dir, r, err))
	}
	return u, nil
}

// explainUpload returns an error of an upload. It says what an interruption means.
func explainUpload(err error) error {
	if _, ok := errors.AsType[*interruptedError](err); ok {
		err = fmt.Errorf("%w; the next upload sends only the files that the Hub does not have", err)
	}
	return err
}

// plan is PlanUpload for a u without files.
func (u *Upload) plan(ctx context.Context, r Reference, public bool) error {
	if _, err := Parse(r.String()); err != nil {
		return &InputError{err}
	}
	switch {
	case r.File != "":
		return inputErrorf("an upload takes no file after the colon; give hf:OWNER/NAME")
	case IsCommit(r.Revision):
		return inputErrorf("%s is a commit, which cannot change; give the name of a branch after @, or nothing", r.Revision)
	case u.client.Offline:
		return inputErrorf("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network; unset it")
	case u.client.Token == "":
		return inputErrorf("there is no token of an account; set HF_TOKEN to a token that may write, from the settings of the account, or run 'hf auth login'")
	}
	if err := u.list(ctx); err != nil {
		return err
	}
	if err := u.look(ctx); err != nil {
		return err
	}
	if u.NewRepo {
		u.Private = !public
	}
	return nil
}

// list lists and hashes the files of the folder.
func (u *Upload) list(ctx context.Context) error {
	root, err := os.OpenRoot(u.dir)
	if err != nil {
		return &InputError{err}
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Name() == ".git" || d.Name() == ".cache" && d.IsDir():
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		case !d.Type().IsRegular():
			return inputErrorf("%s has mode %v; an upload takes regular files only: replace it by a copy of the file, or remove it", path, d.Type())
		case !validPath(path):
			return inputErrorf("%q is not a possible name in a repository; rename the file", path)
		case len(u.Files) == maxUploadFiles:
			return inputErrorf("the folder has more than %d files; is it an exported model?", maxUploadFiles)
		}
		f, err := hashFile(ctx, root, path)
		if err != nil {
			return err
		}
		u.Files = append(u.Files, f)
		return nil
	})
	if err == nil && len(u.Files) == 0 {
		err = inputErrorf("the folder has no files; give the folder of an exported model")
	}
	return err
}

// hashFile returns the description of a file.
func hashFile(ctx context.Context, root *os.Root, path string) (*UploadFile, error) {
	f, err := openInside(root, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	u := &UploadFile{Path: path}
	if u.info, err = f.Stat(); err != nil {
		return nil, err
	}
	u.Bytes = u.info.Size()
	large, blob := sha256.New(), sha1.New()
	fmt.Fprintf(blob, "blob %d\x00", u.Bytes)
	both := io.Writer(large)
	if u.Bytes <= maxRegular {
		both = io.MultiWriter(large, blob)
	}
	u.sample = make([]byte, min(u.Bytes, sampleSize))
	if _, err := f.ReadAt(u.sample, 0); err != nil && err != io.EOF {
		return nil, err
	}
	n, err := copyUntil(ctx, "upload", both, f)
	if err != nil {
		return nil, err
	}
	if n != u.Bytes {
		return nil, u.changed()
	}
	u.sha256 = hex.EncodeToString(large.Sum(nil))
	if u.Bytes <= maxRegular {
		u.gitBlob = hex.EncodeToString(blob.Sum(nil))
	}
	return u, nil
}

// openInside opens a regular file in root. Something else may have taken its place since it was
// listed.
func openInside(root *os.Root, path string) (*os.File, error) {
	before, err := root.Lstat(path)
	if err == nil && !before.Mode().IsRegular() {
		err = inputErrorf("%s has mode %v; expected a regular file", path, before.Mode())
	}
	if err != nil {
		return nil, err
	}
	f, err := root.OpenFile(path, os.O_RDONLY|noFollow, 0)
	if err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err == nil && !os.SameFile(before, after) {
		err = fmt.Errorf("%s was replaced while it was opened", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// open opens the file f for sending. A file that has changed since it was hashed is an error.
func (u *Upload) open(f *UploadFile) (*os.File, error) {
	root, err := os.OpenRoot(u.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	file, err := openInside(root, f.Path)
	if err != nil {
		return nil, err
	}
	if err := f.unchanged(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// unchanged returns an error if the open file is not the one that was hashed.
func (f *UploadFile) unchanged(file *os.File) error {
	info, err := file.Stat()
	if err == nil && (!os.SameFile(info, f.info) || info.Size() != f.Bytes || !info.ModTime().Equal(f.info.ModTime())) {
		err = f.changed()
	}
	return err
}

// changed returns the error for a file that changes during the upload.
func (f *UploadFile) changed() error {
	return fmt.Errorf("%s changes during the upload; upload a folder that no program writes", f.Path)
}

// look asks the Hub for the state of the repository and compares the files with it.
func (u *Upload) look(ctx context.Context) error {
	info, err := u.client.info(ctx, Reference{Repo: u.Repo, Revision: u.Branch}, true)
	refused, _ := errors.AsType[*statusError](err)
	if refused != nil && refused.kind == "RevisionNotFound" && u.Branch != "main" {
		if strings.HasPrefix(u.Branch, "refs/") {
			return err // a pull request is made on the web page
		}
		u.NewBranch = true
		info, err = u.client.info(ctx, Reference{Repo: u.Repo, Revision: "main"}, true)
		refused, _ = errors.AsType[*statusError](err)
	}
	if refused != nil && refused.code == http.StatusNotFound && refused.kind != "RevisionNotFound" {
		u.NewRepo, u.NewBranch = true, u.Branch != "main"
		info, err = &repoInfo{}, nil
	}
	if err != nil {
		return err
	}
	u.Private, u.parent, u.sums = info.private, info.commit, info.sums
	for _, f := range u.Files {
		_, exists := info.files[f.Path]
		switch {
		case !exists:
			f.State = Added
		case f.matches(info.sums[f.Path]):
			f.State = Unchanged
		default:
			f.State = Changed
		}
	}
	return nil
}

// Pending returns the files that Run uploads.
func (u *Upload) Pending() []*UploadFile {
	return slices.DeleteFunc(slices.Clone(u.Files), func(f *UploadFile) bool { return f.State == Unchanged })
}

// Run makes the repository and the branch if necessary, and uploads the files that are not
// unchanged in one commit. It makes no commit that would change nothing. The Progress of the client
// receives events of stage progress.Upload.
//
// If ctx ends, Run returns an error that wraps ctx.Err(). The branch is then as before. A later
// upload does not send the large files again that the Hub has received completely. If another
// program makes a commit during the upload, Run adds its own commit after it, unless the other
// commit changes one of the files.
func (u *Upload) Run(ctx context.Context) (*Uploaded, error) {
	done, err := u.run(ctx)
	if err != nil {
		return nil, explainUpload(fmt.Errorf("uploading %s to %s%s: %w", u.dir, prefix, u.Repo, err))
	}
	return done, nil
}

// run is Run.
func (u *Upload) run(ctx context.Context) (*Uploaded, error) {
	if err := u.create(ctx); err != nil {
		return nil, err
	}
	out := &Uploaded{Address: u.client.Endpoint + "/" + u.Repo}
	if u.Branch != "main" {
		out.Address += "/tree/" + url.PathEscape(u.Branch)
	}
	for races := 0; ; races++ {
		pending, ignored, err := u.modes(ctx, u.Pending())
		if err != nil {
			return nil, err
		}
		out.Ignored = ignored
		if len(pending) == 0 {
			out.Commit = u.parent
			return out, nil
		}
		for _, f := range pending {
			if !f.large || u.stored[f.Path] {
				continue
			}
			if err := u.store(ctx, f); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
			u.stored[f.Path] = true
		}
		out.Commit, err = u.commit(ctx, pending)
		if err == nil {
			out.Made = true
			return out, nil
		}
		refused, ok := errors.AsType[*statusError](err)
		if !ok || refused.code != http.StatusPreconditionFailed || races == maxRaces {
			return nil, err
		}
		// The branch has another commit than before. It may be the one of this upload, if the
		// response was lost.
		if err := u.follow(ctx); err != nil {
			return nil, err
		}
	}
}

// follow looks at the branch again after another commit. It returns an error if the other commit
// changed a file of the upload.
func (u *Upload) follow(ctx context.Context) error {
	before := u.sums
	if err := u.look(ctx); err != nil {
		return err
	}
	for _, f := range u.Pending() {
		if u.sums[f.Path] != before[f.Path] {
			return fmt.Errorf("another program changed %s in the repository during the upload, with commit %s; look at the repository, and upload again to replace the file", f.Path, u.parent)
		}
	}
	return nil
}

// create makes the repository and the branch if they do not exist.
func (u *Upload) create(ctx context.Context) error {
	if !u.NewRepo && !u.NewBranch {
		return nil
	}
	var exists error
	if u.NewRepo {
		owner, name, _ := strings.Cut(u.Repo, "/")
		err := u.client.post(ctx, u.client.Endpoint+"/api/repos/create", map[string]any{"type": "model", "name": name, "organization": owner, "private": u.Private}, nil)
		if refused, ok := errors.AsType[*statusError](err); ok && refused.code == http.StatusConflict {
			// Another program made it, or the response to an earlier attempt was lost.
			exists, err = err, nil
		}
		if err != nil {
			return fmt.Errorf("creating the repository: %w", err)
		}
	}
	if u.NewBranch {
		address := fmt.Sprintf("%s/api/models/%s/branch/%s", u.client.Endpoint, u.Repo, url.PathEscape(u.Branch))
		err := u.client.post(ctx, address, map[string]any{}, nil)
		if refused, ok := errors.AsType[*statusError](err); ok && refused.code == http.StatusConflict {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("creating the branch %s: %w", u.Branch, err)
		}
	}
	planned := *u
	u.NewRepo, u.NewBranch = false, false
	if err := u.look(ctx); err != nil {
		return err
	}
	switch missing := u.NewRepo || u.NewBranch; {
	case missing && exists != nil:
		return fmt.Errorf("creating the repository: %w", exists)
	case missing:
		return fmt.Errorf("the Hub does not have the repository and the branch %s, which it has just made; try again later", u.Branch)
	}
	u.NewRepo, u.NewBranch = planned.NewRepo, planned.NewBranch
	// Nothing was sent yet. The repository may be the one of another program.
	if planned.Private && !u.Private {
		return inputErrorf("the Hub made a public repository, or another program did, although a private one was asked for; nothing was uploaded; make the repository private in its settings, and upload again")
	}
	return nil
}

// events reports the progress of a file, in bytes that never decrease. The event that the file is
// complete follows from complete only.
type events struct {
	report progress.Func
	file   *UploadFile
	top    int64
}

// sent reports that the server took the bytes up to done.
func (e *events) sent(done int64) {
	if done > e.top && done < e.file.Bytes {
		e.top = done
		e.report.Report(progress.Event{Stage: progress.Upload, Item: e.file.Path, Done: done, Total: e.file.Bytes})
	}
}

// complete reports that the Hub has the file.
func (e *events) complete() {
	e.report.Report(progress.Event{Stage: progress.Upload, Item: e.file.Path, Done: e.file.Bytes, Total: e.file.Bytes})
}

// uploadAdvice returns what a status of the Hub means for an upload, and whether the user can
// correct it.
func uploadAdvice(code int, kind string) (problem string, input bool) {
	const token = "set HF_TOKEN to a token that may write to the repository, or run 'hf auth login'"
	input = true
	switch {
	case code == http.StatusUnauthorized:
		problem = "the token is not valid; " + token
	case code == http.StatusForbidden:
		problem = "the account or its token may not write here; check OWNER; " + token
	case code == http.StatusPaymentRequired:
		problem = "the account has no space for private files left; delete files, or use a public repository"
	case kind == "RevisionNotFound":
		problem = "the repository has no such branch; check the part after @"
	case code == http.StatusNotFound:
		problem = "there is no such repository, or the token may not see it; check the name; " + token
	case code == http.StatusConflict:
		problem = "the repository exists, or another operation on it is in progress; try again later, and check that the token may see the repository"
	case code == http.StatusPreconditionFailed:
		problem = "other programs make commits on this branch all the time; try again later, or upload to another branch with hf:OWNER/NAME@BRANCH"
	case code == http.StatusRequestEntityTooLarge:
		problem = "the files are too large for the Hub, or too many; upload fewer or smaller files"
	case code == http.StatusBadRequest || code == http.StatusUnprocessableEntity:
		problem = "the Hub rejects the content of the upload; correct what the message says"
	default:
		problem, input = "the server rejected the request; "+checkEndpoint, false
	}
	return problem, input
}
