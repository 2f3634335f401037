package export

import (
	"context"
	"errors"

	"github.com/sptune/spt/internal/hub"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// Push is a planned upload of a folder to the Hugging Face Hub, from [PlanPush]. Its fields Repo
// and Branch say where to, NewRepo and Private who will be able to read the files, and Files which
// files there are and which of them differ from those on the Hub; Pending returns the latter.
type Push struct{ *hub.Upload }

// Pushed is the result of [Push.Run]: the Address of the page on the Hub, the Commit of the branch,
// and in Made whether the upload made it.
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
	u, err := c.PlanUpload(ctx, dir, r, o.Public)
	return &Push{u}, pushError(err)
}

// Run makes the repository and the branch if necessary, and uploads the files that differ in one
// commit. It makes no commit that would change nothing. If ctx ends, Run returns an error that
// wraps ctx.Err(), and the branch is as before; a later Push sends only what the Hub does not have.
// An error that the user can correct is a [*run.InputError].
func (p *Push) Run(ctx context.Context) (*Pushed, error) {
	done, err := p.Upload.Run(ctx)
	return done, pushError(err)
}

// pushError returns an error of an upload as one of this package.
func pushError(err error) error {
	if _, ok := errors.AsType[*hub.InputError](err); ok {
		return &run.InputError{Err: err}
	}
	return err
}
