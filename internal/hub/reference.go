package hub

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"unicode"

	"github.com/sptune/spt/internal/portablename"
)

// prefix is the start of every reference. It distinguishes a reference from a path.
const prefix = "hf:"

// Reference names a model, or one of its files, on the Hub.
type Reference struct {
	// Repo is the repository, OWNER/NAME.
	Repo string
	// Revision is a branch, a tag or a commit. Default: "", the branch main.
	Revision string
	// File is the path of the weights in the repository. Default: "", the first usual file of
	// weights that the repository has, such as model.safetensors.
	File string
}

// IsReference reports whether s begins with hf: and so is a reference, not a path. It does not
// check the rest of s; [Parse] does. Users can write the path of a file whose name begins with hf:
// as ./hf:….
func IsReference(s string) bool { return strings.HasPrefix(s, prefix) }

// Parse reads a reference of the form hf:OWNER/NAME[@REVISION][:FILE]. It rejects parts that are
// not safe in a path or an address, such as "..".
func Parse(s string) (Reference, error) {
	const form = "expected " + prefix + "OWNER/NAME, followed by @REVISION and :FILE if needed"
	text, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return Reference{}, fmt.Errorf("%q is not a reference to a model of the Hugging Face Hub; %s", s, form)
	}
	// Neither a name nor a git revision can contain a colon.
	text, file, hasFile := strings.Cut(text, ":")
	repo, revision, hasRevision := strings.Cut(text, "@")
	r := Reference{repo, revision, file}
	switch {
	case !validRepo(repo):
		return r, fmt.Errorf("%q: %q is not the name of a repository; %s", s, repo, form)
	case hasRevision && !validPath(revision):
		return r, fmt.Errorf("%q: %q is not a revision (a branch, a tag or a commit); %s", s, revision, form)
	case hasFile && !validPath(file):
		return r, fmt.Errorf("%q: %q is not the path of a file in a repository; %s", s, file, form)
	}
	return r, nil
}

// String returns the reference in the form that [Parse] reads.
func (r Reference) String() string {
	s := prefix + r.Repo
	if r.Revision != "" {
		s += "@" + r.Revision
	}
	if r.File != "" {
		s += ":" + r.File
	}
	return s
}

var (
	repoPart = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?$`)
	commit   = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

// validRepo reports whether repo is OWNER/NAME and follows the rules of the Hub for names. They
// forbid "--", which separates owner and name in the cache.
func validRepo(repo string) bool {
	owner, name, ok := strings.Cut(repo, "/")
	return ok && repoPart.MatchString(owner) && repoPart.MatchString(name) && !strings.Contains(repo, "--") && !strings.Contains(repo, "..")
}

// portable reports whether a file on Windows can have this name. Windows removes dots and spaces at
// the end of a name.
func portable(name string) bool {
	return !portablename.IsDevice(name) && !strings.HasSuffix(name, ".") && !strings.HasSuffix(name, " ")
}

// validPath reports whether p is a relative path with slashes that stays inside its folder on every
// operating system.
func validPath(p string) bool {
	for name := range strings.SplitSeq(p, "/") {
		if !portable(name) {
			return false
		}
	}
	return fs.ValidPath(p) && p != "." && len(p) <= 512 && !strings.ContainsAny(p, `\:`) &&
		!strings.ContainsFunc(p, func(r rune) bool { return !unicode.IsPrint(r) })
}

// IsCommit reports whether revision is a complete commit hash: 40 lower-case hexadecimal digits.
// The files of a commit never change, while a branch or tag may move to another commit.
func IsCommit(revision string) bool { return commit.MatchString(revision) }
