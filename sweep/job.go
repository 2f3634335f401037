package sweep

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/run"
)

// Stage is the purpose of a job.
type Stage string

// The stages of jobs.
const (
	// Select is the stage of jobs that train and validate one setting of a grid. They read no test
	// images.
	Select Stage = "select"
	// Final is the stage of jobs whose results a table shows.
	Final Stage = "final"
)

// Config is the part of a run's configuration that a job sets. The keys are those of config.json.
type Config struct {
	Model     run.ModelConfig   `json:"model"`
	Data      run.DataConfig    `json:"data"`
	Compute   run.ComputeConfig `json:"compute,omitzero"`
	Objective string            `json:"objective"`
	Tune      run.TuneOptions   `json:"tune"`
}

// run returns the configuration of a run.
func (c Config) run() *run.Config {
	return &run.Config{Model: c.Model, Data: c.Data, Compute: c.Compute, Objective: c.Objective, Tune: c.Tune}
}

// withoutPlaces returns c without what does not change a result: the paths of the backbone and of
// the data, which have fingerprints, and the numbers that concern the machine.
func (c Config) withoutPlaces() Config {
	c.Model.Path, c.Model.Commit = "", ""
	c.Data.Path, c.Data.Commit, c.Data.ImageRoot = "", "", ""
	c.Data.Images.CacheBytes, c.Data.Images.Workers = 0, 0
	return c
}

// Job is one run of a sweep: a line of jobs.jsonl.
type Job struct {
	jsonfile.Header // kind "job"
	// ID names the job and its run folder. It is a prefix of the SHA-256 of the configuration,
	// without paths, and of the IDs in Candidates.
	ID string `json:"id"`
	// Stage is the purpose of the job.
	Stage Stage `json:"stage"`
	// Task, Group, Model and Method are the names of the items in the specification. Group is empty
	// for a data set without a group.
	Task   string `json:"task"`
	Group  string `json:"group,omitempty"`
	Model  string `json:"model"`
	Method string `json:"method"`
	// Budget is the value of the specification's budgets. It is empty if the job has no such value.
	Budget string `json:"budget,omitempty"`
	// Setting names the point of the grid, such as "lr=0.001". It is empty for a job of the stage
	// Final.
	Setting string `json:"setting,omitempty"`
	// Seed is the seed of the run.
	Seed uint64 `json:"seed"`
	// Scores is the name of the scores that the job shares with other jobs. It is empty if the
	// method does not score, if it scores with the head of a probe, and if a file of scores or a
	// delta replaces its scores.
	Scores string `json:"scores,omitempty"`
	// Candidates holds the IDs of the jobs among which a job of the stage Final chooses: a list of
	// jobs, one for each seed, for each setting. It is empty if there is no grid.
	Candidates [][]string `json:"candidates,omitempty"`
	// Config is the configuration of the run. If the job has Candidates, the options of the best
	// candidate replace Config.Tune.
	Config Config `json:"config"`
}

var jobHeader = jsonfile.Header{Kind: jsonfile.Job, Version: 1}

// idLength is the number of hexadecimal digits of an ID.
const idLength = 12

// hash returns a prefix of the SHA-256 of the JSON of values.
func hash(values ...any) (string, error) {
	data, err := json.Marshal(values)
	if err != nil {
		return "", fmt.Errorf("hashing a configuration: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])[:idLength], nil
}

// identify sets the ID and the name of the scores of a job. scored reports whether its method
// scores. Jobs with a probe share no scores: the head of the probe, which each job fits, decides
// them. Nor do jobs that need none: see run.TuneOptions.SkipsScoring.
func (j *Job) identify(scored bool) (err error) {
	c := j.Config.withoutPlaces()
	if j.ID, err = hash(j.Stage, c, j.Candidates); err == nil && scored && !c.Tune.Probe && !c.Tune.SkipsScoring() {
		j.Scores, err = hash(c.Model, c.Data, c.Compute, c.Objective, c.Tune.Score)
	}
	return err
}

// labels returns a row with the names of the job and its ID, and without results.
func (j Job) labels() Row {
	return Row{Task: j.Task, Group: j.Group, Model: j.Model, Method: j.Method, Budget: j.Budget, Choice: ChoiceFixed, Setting: j.Setting, Seed: j.Seed,
		Test: -1, TestMax: -1, Val: -1, ValLoss: -1, ID: j.ID}
}

// String describes a job in one line, such as "birds, spt-lora, budget 0.2M, seed 1".
func (j Job) String() string {
	text := j.Task + ", " + j.Method
	if j.Budget != "" {
		text += ", budget " + j.Budget
	}
	if j.Setting != "" {
		text += ", " + j.Setting
	}
	return fmt.Sprintf("%s, seed %d", text, j.Seed)
}
