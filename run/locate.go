package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sptune/spt/backbone/catalogue"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/internal/hub"
	"github.com/sptune/spt/internal/option"
)

// Locate returns the value of ModelConfig.Path for a backbone that a user names:
//
//   - the embedded backbone and hf:OWNER/NAME: the name itself
//   - a file or a folder that exists: its absolute path
//   - a name of package catalogue, such as vit_tiny: hf:timm/ and timm's name
//   - another path: the absolute path, although no file is there
//
// A file or a folder takes precedence over a published backbone of the same name. A name that is
// neither a file nor published is an error, unless it has the form of a path: several parts, a
// leading dot, or the extension of a checkpoint.
func Locate(name string) (path string, err error) {
	if name == embedded.Name {
		return name, nil
	}
	if hub.IsReference(name) {
		r, err := hub.Parse(name)
		return r.String(), err
	}
	if name == "" {
		return "", errors.New("expected a path")
	}
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) || !modelName.MatchString(name) || checkpoint.HasExtension(name) {
		return filepath.Abs(name)
	}
	if b, ok := catalogue.Find(name); ok {
		return b.Reference(), nil
	}
	owner, last, onHub := strings.Cut(name, "/")
	if !onHub {
		last = owner
	}
	text := fmt.Sprintf("there is no file or folder %q, and no published backbone of this name is known", name)
	if near := option.Nearest(last, catalogue.Names()); near != "" {
		text += fmt.Sprintf("; did you mean %s?", near)
	}
	text += "; 'spt models' lists the known names, and "
	if onHub {
		return "", errors.New(text + "hf:" + name + " is a model of the Hugging Face Hub")
	}
	return "", errors.New(text + "hf:OWNER/NAME names any model of the Hugging Face Hub")
}

// modelName matches names that may be those of a published backbone, with or without the owner on
// the Hub. It does not match other paths.
var modelName = regexp.MustCompile(`^\w[\w.-]*(/\w[\w.-]*)?$`)

// overriding returns a note if path, which exists, is a file or a folder of the working folder with
// the name of a published backbone. Otherwise it returns "".
func overriding(path string) string {
	b, ok := catalogue.Find(filepath.Base(path))
	if !ok {
		return ""
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	if wd, err := os.Getwd(); err != nil || filepath.Dir(abs) != wd {
		return ""
	}
	return fmt.Sprintf("%s is used, because it exists; the published backbone %s is %s", abs, filepath.Base(path), b.Reference())
}
