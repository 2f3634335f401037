// Package report makes pages about runs, evaluations and sweeps: one HTML file each, with all
// charts and pictures in it, which needs no network and no other file.
//
// [Open] reads a [Run] from its folder, [NewData] describes its data set, and
// [Evaluation.AddPictures] adds the images that the model gets wrong. Put the runs into a [Page]
// and call [Page.Write] or [Page.WriteFile].
//
// A page is a template (page.html) that is filled with values of this package. view.go turns runs
// into the texts, tables and charts of the template. Package report/chart draws the charts, and
// package report/live serves the page of a run that is going on.
package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"time"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/version"
	"github.com/sptune/spt/report/chart"
	"github.com/sptune/spt/sweep"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// MaxDetailed is the largest number of runs of a page that are described one by one. A page of more
// runs only compares them.
const MaxDetailed = 6

// Page is a page about runs, an evaluation or a sweep.
type Page struct {
	// Title is the title. Default: the names of the runs.
	Title string
	// Runs holds the runs. Several runs are compared first.
	Runs []*Run
	// Evaluated is an evaluation that belongs to no run of the page, or nil.
	Evaluated *Evaluated
	// Verified is a data set that was verified, or nil.
	Verified *Verified
	// Sweep is the table of a sweep, or nil.
	Sweep *sweep.Table
	// Missing is the number of runs of the sweep that have no result yet.
	Missing int
	// Live marks the page of a run that is going on, which loads itself again when the server of
	// package report/live says so.
	Live bool
}

// Evaluated is an evaluation of a classifier on a split of a data set.
type Evaluated struct {
	Evaluation *Evaluation
	// Facts lists the names and the values that describe the classifier and the data.
	Facts []Fact
	// Against is the comparison with another classifier, named Other, or nil.
	Against *Against
	// Data describes the data set, or is nil.
	Data *Data
}

// Fact is a name with a value.
type Fact struct{ Name, Value string }

// Write writes the page. The same page with the same time gives the same bytes.
func (p *Page) Write(w io.Writer, now time.Time) error {
	v, err := p.view(now)
	if err != nil {
		return err
	}
	if err := pageTemplate.Execute(w, v); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// WriteFile writes the page to a file, and replaces the file as a whole.
func (p *Page) WriteFile(path string) error {
	var b bytes.Buffer
	if err := p.Write(&b, time.Now()); err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(path, b.Bytes()); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// policy is the Content-Security-Policy of a page. It allows the pictures, styles and the script of
// the page itself, and no request except those of a live page to its own server.
var policy = func() string {
	sum := sha256.Sum256([]byte(pageJS))
	return "default-src 'none'; img-src data:; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; script-src 'sha256-" +
		base64.StdEncoding.EncodeToString(sum[:]) + "'"
}()

// frame holds what every page has.
type frame struct {
	Title, Policy, Version, Made string
	Style                        template.CSS
	Script                       template.JS
	Live                         bool
}

func (p *Page) frame(now time.Time) frame {
	return frame{Title: p.Title, Policy: policy, Version: version.Version, Made: now.Format("2 January 2006, 15:04 MST"),
		Style: template.CSS(pageCSS) + chart.Style(), Script: template.JS(pageJS), Live: p.Live}
}
