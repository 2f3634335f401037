package export

import (
	"context"
	"errors"

	"github.com/sptune/spt/internal/hub"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// Push is a planned upload of a folder to the Hugging Face Hub, from [PlanPush]. Its method Run
// uploads the files and returns a [Pushed]. Repo and Branch say where to, NewRepo and Private who
// will be able to read the files, and Files which files there are and which of them differ from
// those on the Hub. Nothing has been sent before Run.
type Push = hub.Upload

// Pushed is the result of a [Push]: the address of the page on the Hub, and the commit.
type Pushed = hub.Uploaded

// PushOptions configures an upload.
type PushOptions struct {
	// Public makes a new repository public. An existing one keeps its visibility. Default: false,
	// private.
	Public bool
	// Progress receives events of stage progress.Upload. Default: no events.
	Progress progress.Func
}

// PlanPush plans to upload the folder dir, such as one that [Write] made, to the model repository
// ref on the Hub: hf:OWNER/NAME, or hf:OWNER/NAME@BRANCH. It asks the Hub which files differ. The
// environment sets the token and the Hub, as it does for Hugging Face's own libraries: HF_TOKEN,
// HF_HOME and HF_ENDPOINT. Only regular files are accepted. An error that the user can correct is a
// [*run.InputError].
func PlanPush(ctx context.Context, dir, ref string, o PushOptions) (*Push, error) {
	r, err := hub.Parse(ref)
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	c, err := hub.New()
	if err != nil {
		return nil, err
	}
	c.Progress = o.Progress
	p, err := c.PlanUpload(ctx, dir, r, o.Public)
	if _, ok := errors.AsType[*hub.InputError](err); ok {
		err = &run.InputError{Err: err}
	}
	return p, err
}
