package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/regularfile"
	"github.com/sptune/spt/run"
)

// Engine is the name of a cluster system that [Folder.Submit] submits to.
type Engine string

// engines holds the engines and the functions that submit to them.
var engines = []struct {
	name   Engine
	submit func(ctx context.Context, s *Submission, o SubmitOptions) error
}{
	{"slurm", submitSlurm},
	{"kubernetes", submitKubernetes},
	{"ray", submitRay},
}

// Engines returns the names of all engines: slurm, kubernetes and ray.
func Engines() []Engine {
	names := make([]Engine, len(engines))
	for i, e := range engines {
		names[i] = e.name
	}
	return names
}

// SubmitOptions configures [Folder.Submit].
type SubmitOptions struct {
	// Concurrency is the largest number of elements that run at the same time. Zero: no limit with
	// Slurm; 8 with Kubernetes and Ray.
	Concurrency int
	// Where restricts the jobs to those that it selects. Empty: all jobs.
	Where Filter
	// Attempts is the limit of attempts for each job, as in [Options]. Zero: DefaultAttempts.
	Attempts int
	// Program is the path of the program spt on the cluster. Empty: spt, in a folder of PATH.
	Program string
	// Options are options of the site. Slurm: options of sbatch, such as --partition=gpu.
	// Kubernetes: none. Ray: fields of the request, such as entrypoint_num_gpus=1.
	Options []string

	// Image is the container image, for Kubernetes.
	Image string
	// Claim is the name of the persistent volume claim that holds the sweep folder, the data sets
	// and the backbones, for Kubernetes. Mount is the folder at which it is mounted; the paths in
	// the pods are those of this machine. Empty: the parent of the sweep folder.
	Claim, Mount string
	// Queue is the name of a local queue of Kueue, for Kubernetes. Empty: none.
	Queue string
	// Apply hands the manifest to kubectl, for Kubernetes. Default: it is only written.
	Apply bool
	// Address is the address of the dashboard of Ray. Empty: the environment variable RAY_ADDRESS,
	// or http://127.0.0.1:8265.
	Address string
}

// Submission describes what [Folder.Submit] submitted. A submission has elements: processes that
// run a part of the jobs each. Element k of n runs the jobs k, k+n, k+2n and so on.
type Submission struct {
	Engine   Engine   `json:"engine"`
	Jobs     int      `json:"jobs"`     // number of submitted jobs
	Elements int      `json:"elements"` // number of elements
	IDs      []string `json:"ids"`      // names that the engine gave
	File     string   `json:"file"`     // script or manifest; empty with Ray
	Folder   string   `json:"folder"`   // folder of the submission, with the output of elements

	sweep Folder // absolute path
	list  string // path of the list of the submitted jobs
	name  string // name of the submission for the engine
}

// maxElements is the largest number of elements of a submission. Slurm allows 1001 by default.
const maxElements = 1000

// Submit submits the jobs that are not done and have not failed, and returns at once. Elements
// share the sweep folder with this machine. Jobs that other elements already run are skipped when
// their turn comes. It returns nil if no job is left.
//
// An unknown engine and a missing option are a [*run.OptionError].
func (f Folder) Submit(ctx context.Context, engine Engine, o SubmitOptions) (*Submission, error) {
	i := slices.Index(Engines(), engine)
	if i < 0 {
		return nil, &run.OptionError{Option: "engine", Err: option.Unknown("engine", "engine", engine, Engines())}
	}
	o.Attempts, o.Program = cmp.Or(o.Attempts, DefaultAttempts), cmp.Or(o.Program, "spt")
	left, err := f.left(o.Attempts, o.Where)
	if err != nil || len(left) == 0 {
		return nil, err
	}
	abs, err := filepath.Abs(string(f))
	if err != nil {
		return nil, fmt.Errorf("finding the sweep folder: %w", err)
	}
	s := &Submission{Engine: engine, Jobs: len(left), Elements: min(len(left), maxElements), sweep: Folder(abs)}
	if s.Folder, err = s.sweep.newSubmission(); err != nil {
		return nil, err
	}
	s.list, s.name = filepath.Join(s.Folder, "jobs.txt"), s.newName()
	if err := atomicfile.WriteBytes(s.list, []byte(strings.Join(left, "\n")+"\n")); err != nil {
		return nil, err
	}
	if err := engines[i].submit(ctx, s, o); err != nil {
		if len(s.IDs) == 0 {
			_ = os.RemoveAll(s.Folder)
		}
		return nil, err
	}
	return s, nil
}

// left returns the IDs of the jobs that where selects and that are not done, do not run and have
// not failed. Jobs that validate settings come first, because others wait for them.
func (f Folder) left(attempts int, where Filter) (ids []string, err error) {
	jobs, err := f.Jobs()
	if err == nil {
		jobs, err = where.jobs(jobs)
	}
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(jobs, func(a, b Job) int {
		return slices.Index([]Stage{Select, Final}, a.Stage) - slices.Index([]Stage{Select, Final}, b.Stage)
	})
	locks, err := f.names(claimsFolder)
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		if f.done(j.ID) || locks[j.ID] && claimed(f.path(claimsFolder), j.ID) {
			continue
		}
		h, err := f.history(j.ID)
		if err != nil {
			return nil, err
		}
		if !h.failed(attempts) {
			ids = append(ids, j.ID)
		}
	}
	return ids, nil
}

// newSubmission makes the folder of a submission: submit/1, submit/2 and so on.
func (f Folder) newSubmission() (string, error) {
	if err := os.MkdirAll(f.path(submitFolder), 0o777); err != nil {
		return "", fmt.Errorf("making the folder of submissions: %w", err)
	}
	for n := 1; ; n++ {
		dir := f.path(submitFolder, strconv.Itoa(n))
		err := os.Mkdir(dir, 0o777)
		if err == nil || !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
}

// newName returns a name of the submission for an engine: at most 59 lower-case letters, digits and
// dashes. Kubernetes adds the number of an element, and 63 characters are its limit. The time makes
// the name unique in a cluster that outlives the sweep folder.
func (s *Submission) newName() string {
	base := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(filepath.Base(string(s.sweep))))
	base = strings.Trim(base[:min(len(base), 36)], "-")
	number := filepath.Base(s.Folder)
	return strings.Join(slices.DeleteFunc([]string{"spt", base, number, strconv.FormatInt(time.Now().UnixMilli(), 36)}, func(part string) bool { return part == "" }), "-")
}

// arguments returns the arguments of the program for an element. index is its number, or text that
// the engine replaces by the number.
func (s *Submission) arguments(o SubmitOptions, index string) []string {
	return []string{"sweep", "run", string(s.sweep), "--list", s.list, "--index", index, "--of", strconv.Itoa(s.Elements), "--attempts", strconv.Itoa(o.Attempts)}
}

// readList reads a list of IDs, one on each line.
func readList(path string) ([]string, error) {
	data, err := regularfile.Read(path, maxJobsFile)
	if err != nil {
		return nil, &run.InputError{Err: fmt.Errorf("reading the list of jobs: %w", err)}
	}
	return strings.Fields(string(data)), nil
}
