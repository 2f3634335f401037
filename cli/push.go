package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sptune/spt/export"
	"github.com/sptune/spt/internal/wording"
)

// pushed is an upload, as export reports it.
type pushed struct {
	*export.Push
	// Pushed is nil after --dry-run.
	*export.Pushed
	// DryRun reports that nothing was uploaded because of --dry-run.
	DryRun bool `json:"dry_run,omitempty"`
}

// exportFolder returns the folder that export makes: --out, or a temporary folder for --push
// without --out, which remove removes.
func (o *options) exportFolder() (out string, remove func(), err error) {
	if o.out != "" {
		return o.out, func() {}, nil
	}
	temp, err := os.MkdirTemp("", "spt-export-*")
	if err != nil {
		return "", nil, fmt.Errorf("making a folder for the export: %w; give --out DIR", err)
	}
	// An error leaves a folder that the system removes.
	return filepath.Join(temp, "export"), func() { _ = os.RemoveAll(temp) }, nil
}

// pushFolder uploads the folder --from.
func (a *app) pushFolder(ctx context.Context, o *options) error {
	up, err := a.push(ctx, o.from, o)
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(struct {
			Push *pushed `json:"push"`
		}{up})
	}
	var f facts
	up.describe(&f)
	return a.write(f.String())
}

// push lists what it uploads on standard error, and uploads it unless --dry-run is given.
func (a *app) push(ctx context.Context, dir string, o *options) (*pushed, error) {
	p := a.reporter()
	defer p.close()
	plan, err := export.PlanPush(ctx, dir, o.push, export.PushOptions{Public: o.public, Progress: p.event})
	if err != nil {
		return nil, err
	}
	up := &pushed{Push: plan, DryRun: o.dryRun}
	if o.dryRun {
		return up, nil
	}
	if p.w != nil {
		fmt.Fprint(p.w, planned(plan))
	}
	up.Pushed, err = plan.Run(ctx)
	return up, err
}

// planned lists what an upload sends, a line for the repository and one for each file.
func planned(p *export.Push) string {
	files := p.Pending()
	total := int64(0)
	for _, f := range files {
		total += f.Bytes
	}
	var text strings.Builder
	fmt.Fprintf(&text, "uploading %s of %d, %s, to %s\n", wording.Plural(len(files), "file"), len(p.Files), wording.Bytes(total), target(p))
	for _, f := range files {
		fmt.Fprintf(&text, "  %s, %s, %s\n", printable(f.Path), wording.Bytes(f.Bytes), f.State)
	}
	return text.String()
}

// target describes the repository of an upload, and who can read it.
func target(p *export.Push) string {
	text, readers := "hf:"+p.Repo, "public"
	if p.Branch != "main" {
		text += "@" + p.Branch
	}
	if p.Private {
		readers = "private"
	}
	switch {
	case p.NewRepo:
		return text + ", a new repository, " + readers
	case p.NewBranch:
		return text + ", a new branch of a repository that is " + readers
	}
	return text + ", a repository that is " + readers
}

// describe adds an upload to the facts of export.
func (u *pushed) describe(f *facts) {
	if u.DryRun {
		f.add("would upload", "to %s", target(u.Push))
		for _, file := range u.Files {
			f.add(string(file.State), "%s, %s", printable(file.Path), wording.Bytes(file.Bytes))
		}
		return
	}
	if !u.Made {
		f.add("unchanged", "%s has all files; no commit was made", printable(u.Address))
		return
	}
	f.add("uploaded", "%s, commit %s", printable(u.Address), u.Commit)
	for _, name := range u.Ignored {
		f.add("ignored", "%s, because of .gitignore", printable(name))
	}
}
