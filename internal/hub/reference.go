package hub

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"unicode"
)

// prefix begins every reference, which tells it from a path.
const prefix = "hf:"

// Reference names a model, or one of its files, on the Hub.
type Reference struct {
	Repo     string // OWNER/NAME
	Revision string // branch, tag or commit; "": main
	File     string // path of the weights in the repository; "": weights of a usual name
}

// IsReference reports whether s is a reference and not a path. The reference need not be
// well-formed. A file whose name begins with hf: can be given as ./hf:….
func IsReference(s string) bool { return strings.HasPrefix(s, prefix) }

// Parse reads hf:OWNER/NAME[@REVISION][:FILE]. The parts of the result are safe in paths below the
// cache and in addresses.
func Parse(s string) (Reference, error) {
	const form = "expected " + prefix + "OWNER/NAME, with @REVISION and :FILE if needed"
	text, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return Reference{}, fmt.Errorf("%q is not a reference to a model of the Hugging Face Hub: %s", s, form)
	}
	// Neither a name nor a git revision can contain a colon.
	text, file, hasFile := strings.Cut(text, ":")
	repo, revision, hasRevision := strings.Cut(text, "@")
	r := Reference{repo, revision, file}
	switch {
	case !validRepo(repo):
		return r, fmt.Errorf("%q: %q is not the name of a repository: %s", s, repo, form)
	case hasRevision && !validPath(revision):
		return r, fmt.Errorf("%q: %q is not a revision, which is a branch, a tag or a commit: %s", s, revision, form)
	case hasFile && !validPath(file):
		return r, fmt.Errorf("%q: %q is not the path of a file in a repository: %s", s, file, form)
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

// validRepo reports whether a name follows the rules of the Hub. They forbid "--", which divides
// owner and name in the cache.
func validRepo(repo string) bool {
	owner, name, ok := strings.Cut(repo, "/")
	return ok && repoPart.MatchString(owner) && repoPart.MatchString(name) && !strings.Contains(repo, "--") && !strings.Contains(repo, "..")
}

// validPath reports whether p is a relative path with slashes that cannot leave its folder on any
// system.
func validPath(p string) bool {
	return fs.ValidPath(p) && p != "." && len(p) <= 512 && !strings.ContainsAny(p, `\:`) &&
		!strings.ContainsFunc(p, func(r rune) bool { return !unicode.IsPrint(r) })
}

// IsCommit reports whether a revision is the complete hash of a commit. The files of a commit never
// change.
func IsCommit(revision string) bool { return commit.MatchString(revision) }
