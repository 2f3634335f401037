package hub

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"unicode"
)

// Prefix begins a reference where a path could stand as well.
const Prefix = "hf:"

// Reference names a model, or one of its files, on the Hub.
type Reference struct {
	Repo     string // OWNER/NAME
	Revision string // a branch, tag or commit; empty: main
	File     string // path in the repository of the weights; empty: those under the usual names
}

// IsReference reports whether s is meant for the Hub, well-formed or not. A
// file whose name begins so is reached as ./hf:….
func IsReference(s string) bool { return strings.HasPrefix(s, Prefix) }

// Parse reads hf:OWNER/NAME[@REVISION][:FILE]. What it accepts is safe to use
// as a path below the cache and in an address.
func Parse(s string) (Reference, error) {
	const form = "expected " + Prefix + "OWNER/NAME, with @REVISION and :FILE where they are wanted"
	text, ok := strings.CutPrefix(s, Prefix)
	if !ok {
		return Reference{}, fmt.Errorf("%q is no reference to a model of the Hugging Face Hub: %s", s, form)
	}
	// Neither a name nor a git revision can hold a colon.
	text, file, hasFile := strings.Cut(text, ":")
	repo, revision, hasRevision := strings.Cut(text, "@")
	r := Reference{repo, revision, file}
	switch {
	case !validRepo(repo):
		return r, fmt.Errorf("%q: %q is no name of a repository: %s", s, repo, form)
	case hasRevision && !validPath(revision):
		return r, fmt.Errorf("%q: %q is no revision, which is a branch, a tag or a commit: %s", s, revision, form)
	case hasFile && !validPath(file):
		return r, fmt.Errorf("%q: %q is no path of a file in a repository: %s", s, file, form)
	}
	return r, nil
}

// String is what [Parse] reads.
func (r Reference) String() string {
	s := Prefix + r.Repo
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

// validRepo follows the Hub's rules for names. It forbids "--", by which the
// cache divides owner from name.
func validRepo(repo string) bool {
	owner, name, ok := strings.Cut(repo, "/")
	return ok && repoPart.MatchString(owner) && repoPart.MatchString(name) && !strings.Contains(repo, "--") && !strings.Contains(repo, "..")
}

// validPath accepts relative slash-separated paths that stay where they are put
// on every system.
func validPath(p string) bool {
	return fs.ValidPath(p) && p != "." && len(p) <= 512 && !strings.ContainsAny(p, `\:`) &&
		!strings.ContainsFunc(p, func(r rune) bool { return !unicode.IsPrint(r) })
}

// IsCommit reports whether a revision is a whole commit hash, of which the files
// never change.
func IsCommit(revision string) bool { return commit.MatchString(revision) }
