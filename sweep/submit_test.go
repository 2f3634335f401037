package sweep

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/run"
)

// jobFolder makes a sweep folder of n jobs with the IDs j0, j1 and so on. The name of the folder
// needs quotes in a shell, and has parts that Slurm and Kubernetes would replace.
func jobFolder(t *testing.T, n int) Folder {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such names of files, and clusters do not see its paths")
	}
	f := Folder(filepath.Join(t.TempDir(), `it's 100%a "Test" $(HOME)`))
	if err := os.MkdirAll(string(f), 0o777); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, `{"kind":"job","version":1,"id":"j%d","stage":"final"}`+"\n", i)
	}
	write(t, f.path(JobsFile), lines.String())
	return f
}

// write writes a file and makes its folder.
func write(t *testing.T, path, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o777)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// read reads a file. A missing file is empty.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

// fake puts a shell script into a new folder in front of PATH and returns the folder. $dir is the
// folder in the script.
func fake(t *testing.T, program, script string) (dir string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("this test replaces programs by shell scripts")
	}
	dir = t.TempDir()
	write(t, filepath.Join(dir, program), "#!/bin/sh\ndir="+shell.Quote(dir)+"\n"+script+"\n")
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	return dir
}

// recording is a shell script that writes its arguments into files, one on each line.
const recording = `printf '%s\n' "$@" >>"$dir/arguments"`

// words returns the lines of a file.
func words(t *testing.T, path string) []string {
	t.Helper()
	return strings.Split(strings.TrimSuffix(read(t, path), "\n"), "\n")
}

// mustSubmit submits the jobs of a folder.
func mustSubmit(t *testing.T, f Folder, engine Engine, o SubmitOptions) *Submission {
	t.Helper()
	s, err := f.Submit(t.Context(), engine, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSubmitSlurm checks the arguments of sbatch, and those of the program in the batch script.
func TestSubmitSlurm(t *testing.T) {
	dir := fake(t, "sbatch", recording+"\necho '17;east'")
	f := jobFolder(t, 5)
	program := filepath.Join(dir, `a program's "name"`)
	write(t, program, "#!/bin/sh\ndir="+shell.Quote(dir)+"\n"+strings.Replace(recording, "arguments", "called", 1)+"\n")
	s := mustSubmit(t, f, "slurm", SubmitOptions{Concurrency: 2, Attempts: 3, Program: program, Options: []string{"--partition=gpu", "--comment=two words"}})
	if s.Jobs != 5 || s.Elements != 5 || !slices.Equal(s.IDs, []string{"17"}) || s.Folder != f.path("submit", "1") || s.File != f.path("submit", "1", "slurm.sh") {
		t.Errorf("submission %+v", s)
	}
	got := words(t, filepath.Join(dir, "arguments"))
	name := regexp.MustCompile(`^--job-name=spt-it-s-100-a--test----home-1-[0-9a-z]{8}$`)
	if !slices.ContainsFunc(got, name.MatchString) {
		t.Errorf("no argument matches %s", name)
	}
	got = slices.DeleteFunc(got, name.MatchString)
	want := []string{"--parsable", "--array=0-4%2", "--requeue", "--signal=B:USR1@120", "--open-mode=append",
		"--output=" + strings.ReplaceAll(s.Folder, "%", "%%") + "/%a.log", "--partition=gpu", "--comment=two words", s.File}
	if !slices.Equal(got, want) {
		t.Errorf("arguments of sbatch:\n%q, expected\n%q", got, want)
	}

	c := exec.Command("bash", s.File)
	c.Env = append(os.Environ(), "SLURM_ARRAY_TASK_ID=4")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	list := f.path("submit", "1", "jobs.txt")
	want = []string{"sweep", "run", string(f), "--list", list, "--index", "4", "--of", "5", "--attempts", "3"}
	if got := words(t, filepath.Join(dir, "called")); !slices.Equal(got, want) {
		t.Errorf("arguments of the program:\n%q, expected\n%q", got, want)
	}
	if got := words(t, list); !slices.Equal(got, []string{"j0", "j1", "j2", "j3", "j4"}) {
		t.Errorf("list of jobs %q", got)
	}

	// Without a limit, the array has none.
	mustSubmit(t, f, "slurm", SubmitOptions{})
	if got := words(t, filepath.Join(dir, "arguments")); !slices.Contains(got, "--array=0-4") {
		t.Errorf("arguments of sbatch: %q", got)
	}
}

// TestSubmitRefused checks the errors of the programs of clusters.
func TestSubmitRefused(t *testing.T) {
	kubernetes := SubmitOptions{Image: "spt:1", Claim: "work", Apply: true}
	for _, test := range []struct {
		engine          Engine
		program, script string
		options         SubmitOptions
		message         string
	}{
		{"slurm", "sbatch", "echo 'sbatch: error: invalid partition specified: nosuch' >&2; exit 1", SubmitOptions{},
			"submitting: sbatch ended with exit code 1: sbatch: error: invalid partition specified: nosuch"},
		{"slurm", "sbatch", "echo Welcome", SubmitOptions{}, `submitting: sbatch printed "Welcome"; expected the number of the job`},
		{"kubernetes", "kubectl", "echo 'error: no server' >&2; exit 1", kubernetes, "submitting: kubectl ended with exit code 1: error: no server"},
	} {
		fake(t, test.program, test.script)
		f := jobFolder(t, 2)
		s, err := f.Submit(t.Context(), test.engine, test.options)
		if s != nil || err == nil || err.Error() != test.message {
			t.Errorf("%s: %v, %v, expected %q", test.engine, s, err, test.message)
		}
		if left, err := os.ReadDir(f.path(submitFolder)); err != nil || len(left) > 0 {
			t.Errorf("%s: the submission that failed left %v, %v", test.engine, left, err)
		}
	}
	t.Setenv("PATH", t.TempDir())
	for engine, program := range map[Engine]string{"slurm": "sbatch", "kubernetes": "kubectl"} {
		_, err := jobFolder(t, 1).Submit(t.Context(), engine, kubernetes)
		if _, ok := errors.AsType[*run.InputError](err); !ok || err.Error() != "submitting: the program "+program+" is not installed here; submit on a machine that has it" {
			t.Errorf("%s: %v", engine, err)
		}
	}
}

// TestSubmitOptions checks the errors about options.
func TestSubmitOptions(t *testing.T) {
	for _, test := range []struct {
		engine          Engine
		options         SubmitOptions
		option, message string
	}{
		{"sulrm", SubmitOptions{}, "engine", "slurm"},
		{"kubernetes", SubmitOptions{Claim: "work"}, "image", "no container image given"},
		{"kubernetes", SubmitOptions{Image: "spt:1"}, "claim", "no volume claim given"},
		{"kubernetes", SubmitOptions{Image: "spt:1", Claim: "work", Options: []string{"--x"}}, "engine", `found the site options ["--x"]`},
		{"kubernetes", SubmitOptions{Image: "spt:1", Claim: "work", Mount: "/nosuch"}, "mount", "is not in /nosuch"},
		{"kubernetes", SubmitOptions{Image: "spt:1", Claim: "work", Mount: "work"}, "mount", "is not in work"},
		{"kubernetes", SubmitOptions{Image: "spt:1", Claim: "work", Mount: "/"}, "mount", "the volume claim cannot be mounted at /;"},
		{"ray", SubmitOptions{Options: []string{"--entrypoint_num_gpus"}}, "engine", "expected NAME=VALUE"},
		{"ray", SubmitOptions{Address: "auto"}, "address", "such as http://127.0.0.1:8265"},
		{"ray", SubmitOptions{Address: "ray://head:10001"}, "address", "such as http://127.0.0.1:8265"},
	} {
		f := jobFolder(t, 2)
		s, err := f.Submit(t.Context(), test.engine, test.options)
		wrong, ok := errors.AsType[*run.OptionError](err)
		if s != nil || !ok || wrong.Option != test.option || !strings.Contains(err.Error(), test.message) {
			t.Errorf("%s with %+v: %v, expected an error about the option %s with %q", test.engine, test.options, err, test.option, test.message)
		}
		if left, _ := os.ReadDir(f.path(submitFolder)); len(left) > 0 {
			t.Errorf("%s: the submission that failed left %v", test.engine, left)
		}
	}
}

// TestSubmitKubernetes checks that kubectl gets the manifest. The module internal/kubernetestest
// checks the manifest.
func TestSubmitKubernetes(t *testing.T) {
	dir := fake(t, "kubectl", recording)
	f := jobFolder(t, 2)
	o := SubmitOptions{Image: "spt:1", Claim: "work"}
	if s := mustSubmit(t, f, "kubernetes", o); read(t, s.File) == "" || read(t, filepath.Join(dir, "arguments")) != "" {
		t.Errorf("the manifest %s is not written, or kubectl was called", s.File)
	}
	o.Apply = true
	s := mustSubmit(t, f, "kubernetes", o)
	if got := words(t, filepath.Join(dir, "arguments")); !slices.Equal(got, []string{"apply", "-f", s.File}) {
		t.Errorf("arguments of kubectl: %q", got)
	}
}

// TestSubmitRay checks the requests that the dashboard of Ray gets.
func TestSubmitRay(t *testing.T) {
	var requests []map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request map[string]any
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil || r.Method != "POST" || r.URL.Path != "/api/jobs/" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s with %v: %v", r.Method, r.URL, r.Header, err)
		}
		requests = append(requests, request)
		_ = json.NewEncoder(w).Encode(map[string]any{"submission_id": request["submission_id"]})
	}))
	defer server.Close()
	t.Setenv("RAY_ADDRESS", server.URL)
	f := jobFolder(t, 20)
	s := mustSubmit(t, f, "ray", SubmitOptions{Options: []string{"entrypoint_num_gpus=0.5", "--entrypoint_num_cpus=2", `metadata={"team":"vision"}`, "x=a=b"}, Program: "/opt/it's spt"})
	if s.Jobs != 20 || s.Elements != 8 || len(s.IDs) != 8 || s.File != "" || len(requests) != 8 {
		t.Fatalf("submission %+v with %d requests", s, len(requests))
	}
	for k, r := range requests {
		if id := r["submission_id"]; id != s.IDs[k] || !strings.HasSuffix(s.IDs[k], "-"+strconv.Itoa(k)) {
			t.Errorf("element %d: the ID is %q, the submission has %q", k, id, s.IDs[k])
		}
		delete(r, "submission_id")
		entrypoint := fmt.Sprintf(`exec '/opt/it'\''s spt' 'sweep' 'run' %s '--list' %s '--index' '%d' '--of' '8' '--attempts' '5' >>%s 2>&1`,
			shell.Quote(string(f)), shell.Quote(f.path("submit", "1", "jobs.txt")), k, shell.Quote(f.path("submit", "1", strconv.Itoa(k)+".log")))
		want := map[string]any{"entrypoint": entrypoint, "entrypoint_num_gpus": 0.5, "entrypoint_num_cpus": 2.0,
			"metadata": map[string]any{"team": "vision"}, "x": "a=b", "runtime_env": map[string]any{"env_vars": map[string]any{"RAY_JOB_STOP_WAIT_TIME_S": "120"}}}
		if !reflect.DeepEqual(r, want) {
			t.Errorf("element %d: request %v, expected %v", k, r, want)
		}
	}
}

// TestSubmitRayRefused checks the errors of the dashboard of Ray.
func TestSubmitRayRefused(t *testing.T) {
	answer := func(status int, text string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(text))
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	for _, test := range []struct{ address, message string }{
		{answer(500, "Traceback (most recent call last):\n  File \"job_head.py\"\nValueError: Job with submission_id a already exists.\n"),
			"submitting element 0 of 2 to Ray: the dashboard answers 500: ValueError: Job with submission_id a already exists."},
		{answer(404, ""), "submitting element 0 of 2 to Ray: the dashboard answers 404: "},
		{answer(200, "{}"), "the answer of the dashboard has no submission_id; Ray Jobs of version 2 is needed"},
		{answer(200, "<html>"), "the answer of the dashboard has no submission_id; Ray Jobs of version 2 is needed"},
		{closed.URL + "/", "the dashboard of Ray must run there; give its address, or set RAY_ADDRESS"},
	} {
		s, err := jobFolder(t, 2).Submit(t.Context(), "ray", SubmitOptions{Address: test.address})
		if s != nil || err == nil || !strings.Contains(err.Error(), test.message) {
			t.Errorf("%v, %v, expected %q", s, err, test.message)
		}
	}
}

// TestSubmitLeft checks that a submission has only the jobs that are not done, do not run and have
// not failed.
func TestSubmitLeft(t *testing.T) {
	fake(t, "sbatch", "echo 17")
	f := jobFolder(t, 6)
	done := func(id string) { write(t, f.RunFolder(id).Path(run.ResultFile), "{}") }
	if s := mustSubmit(t, f, "slurm", SubmitOptions{}); s.Jobs != 6 {
		t.Errorf("first submission %+v, expected 6 jobs", s)
	}
	done("j0")
	for _, a := range []attempt{{Event: began}, {Event: ended, Code: run.ExitInput, Final: true}} {
		if err := f.record("j1", a); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // killed twice
		if err := f.record("j2", attempt{Event: began}); err != nil {
			t.Fatal(err)
		}
	}
	running, err := take(f.path(claimsFolder), "j3")
	if err != nil || running == nil {
		t.Fatal(running, err)
	}
	for _, test := range []struct {
		attempts int
		want     []string
	}{{0, []string{"j2", "j4", "j5"}}, {2, []string{"j4", "j5"}}} {
		s := mustSubmit(t, f, "slurm", SubmitOptions{Attempts: test.attempts})
		if got := words(t, filepath.Join(s.Folder, "jobs.txt")); s.Jobs != len(test.want) || !slices.Equal(got, test.want) {
			t.Errorf("%d attempts: %+v with %q, expected %q", test.attempts, s, got, test.want)
		}
	}
	running.release(false)
	for _, id := range []string{"j2", "j3", "j4", "j5"} {
		done(id)
	}
	if s := mustSubmit(t, f, "slurm", SubmitOptions{}); s != nil {
		t.Errorf("submission %+v, expected nothing", s)
	}
}

// TestNewName checks that the names of submissions are host names with room for the number of an
// element.
func TestNewName(t *testing.T) {
	for folder, begin := range map[string]string{
		"methods":                            "spt-methods-12-",
		"-VTAB_1k (2):":                      "spt-vtab-1k--2-12-",
		"Ü":                                  "spt-12-",
		strings.Repeat("x", 99):              "spt-" + strings.Repeat("x", 36) + "-12-",
		"a-" + strings.Repeat("-", 50) + "b": "spt-a-12-",
	} {
		s := Submission{sweep: Folder(filepath.Join("/sweeps", folder)), Folder: "/sweeps/submit/12"}
		name := s.newName()
		if !strings.HasPrefix(name, begin) || len(name) > 59 || !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`).MatchString(name) {
			t.Errorf("folder %s: name %q, expected one that begins with %q", folder, name, begin)
		}
	}
}

// TestInterruptedAttempts checks that an interrupted attempt counts only if it saved no state after
// it began.
func TestInterruptedAttempts(t *testing.T) {
	f := jobFolder(t, 1)
	if err := f.record("j0", attempt{Event: began}); err != nil {
		t.Fatal(err)
	}
	state := f.RunFolder("j0").Path("candidates", "00", run.TrainStateFile)
	if f.saved("j0") {
		t.Error("a run without a folder has saved its state")
	}
	write(t, state, "state")
	for _, test := range []struct {
		after time.Duration
		want  bool
	}{{-time.Second, false}, {time.Second, true}} {
		log, err := os.Stat(f.log("j0"))
		if err == nil {
			err = os.Chtimes(state, time.Time{}, log.ModTime().Add(test.after))
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := f.saved("j0"); got != test.want {
			t.Errorf("state of %s after the log: saved %t", test.after, got)
		}
	}
	for range 9 {
		for _, a := range []attempt{{Event: began}, {Event: ended, Code: run.ExitInterrupted, Saved: true}} {
			if err := f.record("j0", a); err != nil {
				t.Fatal(err)
			}
		}
	}
	h, err := f.history("j0")
	if err != nil || h.attempts != 1 || h.failed(2) || !h.failed(1) {
		t.Errorf("history %+v, %v, expected 1 attempt", h, err)
	}
}
