package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sweep"
)

// cluster is a sweep that an engine runs, and the same sweep in another folder on this machine.
type cluster struct {
	*testing.T
	dir    string       // folder of data sets and sweeps; its name needs quotes in a shell
	spt    string       // path of the program
	broken int          // number of the job whose data set has an image that cannot be decoded
	sweep  sweep.Folder // folder that the engine works on
	local  sweep.Folder // folder that this machine works on
	jobs   []sweep.Job
	ran    chan error // receives the end of the run in the folder local
}

// newCluster makes n jobs, each on a data set of its own. The first jobs take longer. The run on
// this machine begins.
func newCluster(t *testing.T, n, long, broken int) *cluster {
	dir := filepath.Join(t.TempDir(), "it's 100%a test")
	c := &cluster{T: t, dir: dir, spt: filepath.Join(dir, "spt"), broken: broken, sweep: sweep.Folder(filepath.Join(dir, "Sweep 1")), local: "local", ran: make(chan error, 1)}
	c.local = sweep.Folder(filepath.Join(dir, "local"))
	spec := "config: {model: {path: demo}, tune: {train: {batch_size: 4}}}\nmethods: [lora]\ntasks:\n"
	for i := range n {
		name := fmt.Sprintf("d%02d", i)
		if err := makeImages(filepath.Join(dir, "data", name), 4+i); err != nil {
			t.Fatal(err)
		}
		epochs := 5
		if i < long {
			epochs = 40
		}
		spec += fmt.Sprintf("  - {data: {path: data/%s}, tune: {train: {epochs: %d}}}\n", name, epochs)
	}
	for path, content := range map[string]string{
		filepath.Join("data", fmt.Sprintf("d%02d", broken), "red", "00.png"): "broken",
		"spec.yaml": spec,
	} {
		if err := os.WriteFile(filepath.Join(dir, path), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", c.spt, "../cmd/spt")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, out)
	}
	for _, folder := range []sweep.Folder{c.sweep, c.local} {
		c.run("sweep", "plan", "spec.yaml", "--out", string(folder))
	}
	jobs, err := c.sweep.Jobs()
	if err != nil || len(jobs) != n {
		t.Fatalf("%d jobs, %v", len(jobs), err)
	}
	c.jobs = jobs
	t.Cleanup(func() {
		if t.Failed() {
			c.explain()
		}
	})
	go func() {
		local := c.command("sweep", "run", string(c.local), "--quiet")
		err := local.Run()
		if local.ProcessState.ExitCode() == run.ExitInput { // the broken job
			err = nil
		}
		c.ran <- err
	}()
	return c
}

// explain prints the logs of the jobs and the output of the elements.
func (c *cluster) explain() {
	for _, pattern := range []string{"attempts/*", "submit/*/*"} {
		paths, _ := filepath.Glob(filepath.Join(string(c.sweep), pattern))
		for _, path := range paths {
			text, _ := os.ReadFile(path)
			c.Logf("%s:\n%s", path, text)
		}
	}
}

// command returns a call of the program, which runs in the folder of the data sets.
func (c *cluster) command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.spt, args...)
	cmd.Dir = c.dir
	return cmd
}

// run runs the program and returns its output.
func (c *cluster) run(args ...string) string {
	c.Helper()
	return c.output(c.command(args...))
}

// output runs a command and returns its output without the last newline.
func (c *cluster) output(cmd *exec.Cmd) string {
	c.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		c.Fatalf("%s: %v\n%s%s", cmd, err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// submit submits the jobs of the folder and checks how many it submits. It must return at once: at
// most 10 s on a busy machine.
func (c *cluster) submit(jobs int, args ...string) *sweep.Submission {
	c.Helper()
	start := time.Now()
	out := c.run(append([]string{"sweep", "submit", string(c.sweep), "--json"}, args...)...)
	took := time.Since(start)
	c.Logf("submitting took %v", took.Round(time.Millisecond))
	if took > 10*time.Second {
		c.Errorf("submitting took %s", took)
	}
	var s *sweep.Submission
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		c.Fatal(err)
	}
	switch {
	case s == nil && jobs > 0:
		c.Fatalf("nothing submitted, expected %d jobs", jobs)
	case s != nil && s.Jobs != jobs:
		c.Errorf("%d jobs submitted, expected %d", s.Jobs, jobs)
	}
	return s
}

// await waits until a condition holds.
func (c *cluster) await(what string, ok func() bool) {
	c.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > 3*time.Minute {
			c.Fatalf("%s: not after 3 minutes\n%s", what, c.run("sweep", "status", string(c.sweep)))
		}
		time.Sleep(20 * time.Millisecond)
	}
	c.Logf("%s: after %v", what, time.Since(start).Round(10*time.Millisecond))
}

// attempts returns the lines of the log of a job.
func (c *cluster) attempts(job int) (lines []attempt) {
	data, _ := os.ReadFile(filepath.Join(string(c.sweep), "attempts", c.jobs[job].ID+".jsonl"))
	for line := range bytes.Lines(data) {
		var a attempt
		if err := json.Unmarshal(line, &a); err != nil {
			c.Fatal(err)
		}
		lines = append(lines, a)
	}
	return lines
}

// attempt is a line of the log of a job.
type attempt struct {
	Event         string
	Process, Code int
}

// began returns the number of attempts of a job.
func (c *cluster) began(job int) (n int) {
	for _, a := range c.attempts(job) {
		if a.Event == "began" {
			n++
		}
	}
	return n
}

// exists reports whether the run of a job has a file.
func (c *cluster) exists(job int, name string) bool {
	_, err := os.Stat(c.sweep.RunFolder(c.jobs[job].ID).Path(name))
	return err == nil
}

// training waits until a job trains.
func (c *cluster) training(job int) {
	c.Helper()
	c.await(fmt.Sprintf("job %d trains", job), func() bool { return c.exists(job, run.MetricsFile) })
	if c.exists(job, run.ResultFile) {
		c.Fatalf("job %d has ended too early", job)
	}
}

// kill kills the process that runs a job.
func (c *cluster) kill(job int) {
	c.Helper()
	lines := c.attempts(job)
	last := lines[len(lines)-1]
	if last.Event != "began" {
		c.Fatalf("job %d has ended too early", job)
	}
	process, err := os.FindProcess(last.Process)
	if err == nil {
		err = process.Kill()
	}
	if err != nil {
		c.Fatal(err)
	}
}

// status checks how many jobs are done, were interrupted and have failed.
func (c *cluster) status(done, interrupted, failed int) {
	c.Helper()
	var s sweep.Status
	if err := json.Unmarshal([]byte(c.run("sweep", "status", string(c.sweep), "--json")), &s); err != nil {
		c.Fatal(err)
	}
	if s.Done != done || s.Interrupted != interrupted || s.Failed != failed || s.Running+s.Blocked+s.Open > 0 {
		c.Errorf("status %+v, expected %d done, %d interrupted, %d failed", s, done, interrupted, failed)
	}
}

// end checks that every job except the broken one gave the same bits as the run on this machine,
// and that the broken one was run once and is named by the status.
func (c *cluster) end(engine string) {
	c.Helper()
	if s := c.submit(0, "--engine", engine); s != nil {
		c.Errorf("submitted %+v, expected nothing", s)
	}
	if err := <-c.ran; err != nil {
		c.Fatalf("the run on this machine: %v", err)
	}
	same := 0
	for i, j := range c.jobs {
		if i == c.broken {
			continue
		}
		got, want := c.sweep.RunFolder(j.ID), c.local.RunFolder(j.ID)
		a, err := os.ReadFile(got.Path(delta.TensorsName))
		if err != nil {
			c.Fatal(err)
		}
		b, err := os.ReadFile(want.Path(delta.TensorsName))
		if err != nil {
			c.Fatal(err)
		}
		ra, err := run.LoadResult[run.Result](got)
		if err != nil {
			c.Fatal(err)
		}
		rb, err := run.LoadResult[run.Result](want)
		if err != nil {
			c.Fatal(err)
		}
		if !bytes.Equal(a, b) || ra.Test.Accuracy != rb.Test.Accuracy || ra.Test.Loss != rb.Test.Loss {
			c.Errorf("job %d: the results differ: test %+v and %+v", i, ra.Test, rb.Test)
			continue
		}
		same++
	}
	c.Logf("%d jobs have the same delta and test result as on this machine", same)
	if n := c.began(c.broken); n != 1 {
		c.Errorf("the broken job was run %d times", n)
	}
	status := c.run("sweep", "status", string(c.sweep))
	c.Log("status:\n" + status)
	if !strings.Contains(status, c.jobs[c.broken].ID) || !strings.Contains(status, "cannot be decoded") {
		c.Errorf("the status does not name the broken job %s", c.jobs[c.broken].ID)
	}
}

// logged checks that the output of an element contains a text.
func (c *cluster) logged(s *sweep.Submission, element int, text string) {
	c.Helper()
	out, err := os.ReadFile(filepath.Join(s.Folder, fmt.Sprintf("%d.log", element)))
	if err != nil || !strings.Contains(string(out), text) {
		c.Errorf("output of element %d, expected %q: %v\n%s", element, text, err, out)
	}
}

// TestSlurm runs a sweep on a real Slurm while a program is killed, an element is cancelled and an
// element reaches its time limit. .ci/slurm starts Slurm and the test.
func TestSlurm(t *testing.T) {
	if os.Getenv("SPT_SLURM") == "" {
		t.Skip(".ci/slurm runs this test")
	}
	const killed, cancelled, limited, broken = 0, 1, 2, 5
	c := newCluster(t, 12, 3, broken)
	s := c.submit(12, "--engine", "slurm", "--concurrency", "2")
	element := func(job int) string { return fmt.Sprintf("%s_%d", s.IDs[0], job) }
	ended := func() bool { return c.output(exec.Command("squeue", "-h", "-r", "-j", s.IDs[0])) == "" }

	c.training(killed)
	c.kill(killed)
	c.training(cancelled)
	c.output(exec.Command("scancel", element(cancelled)))
	c.training(limited)
	// Slurm sends this signal two minutes before the time limit. While the array changes, scancel
	// sends it again every few seconds, so scancel must end.
	signal := exec.Command("scancel", "--signal=USR1", "--batch", element(limited))
	if err := signal.Start(); err != nil {
		t.Fatal(err)
	}
	c.await("the state is saved", func() bool { return len(c.attempts(limited)) == 2 })
	_ = signal.Process.Kill()
	_ = signal.Wait()
	if end := c.attempts(limited)[1]; end.Code != run.ExitInterrupted || !c.exists(limited, run.TrainStateFile) {
		t.Errorf("at the time limit the attempt ended with %+v, state saved: %t", end, c.exists(limited, run.TrainStateFile))
	}
	c.await("the array has ended", ended)
	c.status(10, 1, 1)
	for job, want := range map[int]int{killed: 2, cancelled: 1, limited: 2} {
		if n := c.began(job); n != want {
			t.Errorf("job %d was run %d times, expected %d", job, n, want)
		}
	}
	c.logged(s, cancelled, "CANCELLED")
	c.logged(s, limited, "to continue")
	c.logged(s, broken, "cannot be decoded")

	s = c.submit(1, "--engine", "slurm")
	c.await("the second array has ended", ended)
	c.status(11, 0, 1)
	c.end("slurm")
}

// TestRay runs a sweep on a real Ray while a program is killed and a job is stopped. .ci/ray starts
// Ray and the test.
func TestRay(t *testing.T) {
	if os.Getenv("SPT_RAY") == "" {
		t.Skip(".ci/ray runs this test")
	}
	const killed, stopped, broken = 0, 1, 2
	c := newCluster(t, 4, 2, broken)
	s := c.submit(4, "--engine", "ray")
	c.training(killed)
	c.kill(killed)
	c.training(stopped)
	answer, err := http.Post(os.Getenv("RAY_ADDRESS")+"/api/jobs/"+s.IDs[stopped]+"/stop", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	c.await("the jobs have ended", func() bool { return c.rayEnded(s.IDs) })
	c.status(1, 2, 1)
	if lines := c.attempts(stopped); len(lines) != 2 || lines[1].Code != run.ExitInterrupted || !c.exists(stopped, run.TrainStateFile) {
		t.Errorf("attempts of the stopped job: %+v, state saved: %t", lines, c.exists(stopped, run.TrainStateFile))
	}
	c.logged(s, stopped, "to continue")
	c.logged(s, broken, "cannot be decoded")

	s = c.submit(2, "--engine", "ray", "--", "entrypoint_num_cpus=2", `metadata={"purpose":"test"}`)
	c.await("the jobs of the second submission have ended", func() bool { return c.rayEnded(s.IDs) })
	c.status(3, 0, 1)
	c.end("ray")
}

// rayEnded reports whether jobs of Ray have ended.
func (c *cluster) rayEnded(ids []string) bool {
	c.Helper()
	for _, id := range ids {
		answer, err := http.Get(os.Getenv("RAY_ADDRESS") + "/api/jobs/" + id)
		if err != nil {
			c.Fatal(err)
		}
		var job struct{ Status string }
		err = json.NewDecoder(answer.Body).Decode(&job)
		answer.Body.Close()
		if err != nil {
			c.Fatal(err)
		}
		if job.Status == "PENDING" || job.Status == "RUNNING" {
			return false
		}
	}
	return true
}
