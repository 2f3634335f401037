package cli

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/sweep"
)

const killedSpec = `config: {compute: {device: cpu}, model: {path: vit.safetensors}, tune: {train: {epochs: 6, batch_size: 4}}}
tasks: [data]
methods:
  - linear
  - {name: lora, tune: {method: lora, rank: 1}}
  - {name: spt-lora, tune: {method: spt-lora, rank: 1}, select: {budget: [300, 400]}}
seeds: [0, 1]
`

// TestSweepKills kills processes that run the jobs of a sweep folder at random moments. Often two
// processes run at once, and some have workers. In the end every job must be done, each of them
// once, with the result of a sweep without kills, and nothing else may be left.
//
// The test kills 6 processes; with SPT_FAULTS=all, 50.
func TestSweepKills(t *testing.T) {
	kills := numberOfKills(t)
	p := newPlace(t, 12)
	if err := os.WriteFile(p.path("spec.yaml"), []byte(killedSpec), 0o666); err != nil {
		t.Fatal(err)
	}
	p.do("sweep", "plan", "spec.yaml", "--out", "whole")
	start := time.Now()
	p.do("sweep", "run", "whole", "--quiet")
	whole := time.Since(start)
	want := p.sweepResults("whole")
	r := rand.New(rand.NewPCG(3, 4))
	for n, killed := 0, 0; killed < kills; n++ {
		out := fmt.Sprint("sweep-", n)
		p.do("sweep", "plan", "spec.yaml", "--out", out)
		command := func() *exec.Cmd {
			args := []string{"sweep", "run", out, "--quiet", "--attempts", "1000"}
			if r.IntN(3) == 0 {
				args = append(args, "--workers", "2")
			}
			return p.command(p.spt, args...)
		}
		for stops := 0; stops < 6 && killed < kills; stops++ {
			var both sync.WaitGroup
			var stopped [2]bool
			for i := range 1 + r.IntN(2) {
				c, after := command(), time.Duration(r.Float64()*float64(whole)*0.7)
				both.Go(func() { stopped[i] = stop(t, c, os.Kill, after) })
			}
			both.Wait()
			if !stopped[0] && !stopped[1] {
				break
			}
			for _, s := range stopped {
				if s {
					killed++
				}
			}
		}
		c := command()
		if text, err := c.CombinedOutput(); err != nil {
			status, _ := p.command(p.spt, "sweep", "status", out).CombinedOutput()
			t.Fatalf("%v: %v\n%s\n%s", c.Args, err, text, status)
		}
		if got := p.sweepResults(out); !slices.Equal(got, want) {
			t.Errorf("%s differs from a sweep without kills:\n%s\nexpected\n%s", out, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// sweepResults returns what is in a finished sweep folder: its files, the results of its jobs
// without times, and the hashes of the deltas. It reports jobs that gave a result twice.
func (p *place) sweepResults(out string) (lines []string) {
	p.t.Helper()
	rows, missing, err := sweep.Folder(p.path(out)).Collect()
	if err != nil || missing > 0 {
		p.t.Fatalf("%s: %d jobs have no result, %v", out, missing, err)
	}
	for _, r := range rows {
		r.Seconds = 0
		lines = append(lines, fmt.Sprintf("%+v %x", r, sha256.Sum256(p.read(out, "runs", r.ID, delta.TensorsName))))
	}
	logs, err := filepath.Glob(p.path(out, "attempts", "*"))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, log := range logs {
		results := 0
		for line := range strings.Lines(string(p.read(out, "attempts", filepath.Base(log)))) {
			if strings.Contains(line, `"event":"ended"`) && !strings.Contains(line, `"code"`) {
				results++
			}
		}
		// A process that is killed between the result and the line of its end leaves no such line.
		if results > 1 {
			p.t.Errorf("the job of %s gave a result %d times", log, results)
		}
	}
	err = filepath.WalkDir(p.path(out), func(path string, d os.DirEntry, err error) error {
		name, _ := filepath.Rel(p.path(out), path)
		// The lock of a job stays if its process is killed after the result.
		if err == nil && !d.IsDir() && !strings.HasPrefix(name, "claims") {
			lines = append(lines, name)
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return lines
}
