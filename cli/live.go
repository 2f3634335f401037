package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/sptune/spt/report"
	"github.com/sptune/spt/report/live"
	"github.com/sptune/spt/run"
)

// livePage serves the page of a run while the run goes on. A nil livePage serves nothing.
type livePage struct {
	app    *app
	server *live.Server
	stop   context.CancelFunc

	lock  sync.Mutex
	dir   string // the run folder; empty until it is known
	final []byte // the page of the finished run; nil before
}

// serveLive begins to serve a page at an address, which may be empty: then there is no page. The
// page is empty until follow is called.
func (a *app) serveLive(addr string) (*livePage, error) {
	if addr == "" {
		return nil, nil
	}
	p := &livePage{app: a, stop: func() {}}
	var err error
	if p.server, err = live.Listen(addr, p.page); err != nil {
		return nil, &run.OptionError{Option: "live", Err: err}
	}
	return p, nil
}

// follow serves the page of the run in the folder dir, and says where.
func (p *livePage) follow(ctx context.Context, dir string) {
	if p == nil {
		return
	}
	p.lock.Lock()
	p.dir = dir
	p.lock.Unlock()
	ctx, p.stop = context.WithCancel(ctx)
	go report.Watch(ctx, dir, p.server.Changed)
	p.app.message("live page: %s", p.server.URL())
}

// page returns the page of the run as it is now.
func (p *livePage) page(context.Context) ([]byte, error) {
	p.lock.Lock()
	dir, final := p.dir, p.final
	p.lock.Unlock()
	if final != nil {
		return final, nil
	}
	if dir == "" {
		return nil, errors.New("the run has not begun")
	}
	r, err := report.Open(dir)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = (&report.Page{Runs: []*report.Run{r}, Live: true}).Write(&b, time.Now())
	return b.Bytes(), err
}

// close sends the last state of the page to all browsers, and ends. path is the report of the
// finished run, which has pictures; it may be empty.
func (p *livePage) close(path string) {
	if p == nil {
		return
	}
	p.stop()
	if final, err := os.ReadFile(path); path != "" && err == nil {
		p.lock.Lock()
		p.final = final
		p.lock.Unlock()
	}
	p.server.Changed()
	_ = p.server.Close() // the run is done, whether or not browsers have heard of it
}
