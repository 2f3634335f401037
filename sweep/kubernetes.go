package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/run"
)

// defaultParallelism is the default of SubmitOptions.Concurrency for Kubernetes and Ray, which need
// a number.
const defaultParallelism = 8

// saveSeconds is the time that a stopped element has to save its state before it is killed, in
// seconds.
const saveSeconds = 120

// submitKubernetes writes the manifest of an Indexed Job and, with o.Apply, hands it to kubectl.
func submitKubernetes(ctx context.Context, s *Submission, o SubmitOptions) error {
	switch {
	case o.Image == "":
		return &run.OptionError{Option: "image", Err: errors.New("no container image given; give an image with the program spt, such as registry/spt:1.0")}
	case o.Claim == "":
		return &run.OptionError{Option: "claim", Err: errors.New("no volume claim given; give the name of the persistent volume claim that holds the sweep folder and the data")}
	case len(o.Options) > 0:
		return &run.OptionError{Option: "engine", Err: fmt.Errorf("found the site options %q; Kubernetes takes none: change the manifest instead", o.Options)}
	}
	o.Mount = filepath.Clean(cmp.Or(o.Mount, filepath.Dir(string(s.sweep))))
	inside, err := filepath.Rel(o.Mount, string(s.sweep))
	switch {
	case err != nil || !filepath.IsLocal(inside):
		return &run.OptionError{Option: "mount", Err: fmt.Errorf("the sweep folder %s is not in %s, where the volume claim is mounted; give the absolute path of a folder that holds the sweep folder", s.sweep, o.Mount)}
	case o.Mount == "/" || strings.Contains(o.Mount, ":"):
		return &run.OptionError{Option: "mount", Err: fmt.Errorf("the volume claim cannot be mounted at %s; move the sweep folder, or give another folder that holds it", o.Mount)}
	}
	manifest, err := yaml.Marshal(s.manifest(o))
	if err != nil {
		return fmt.Errorf("making the manifest: %w", err)
	}
	s.File = filepath.Join(s.Folder, "job.yaml")
	if err := atomicfile.WriteBytes(s.File, manifest); err != nil {
		return err
	}
	if o.Apply {
		if _, err := output(ctx, "kubectl", "apply", "-f", s.File); err != nil {
			return err
		}
	}
	s.IDs = []string{s.name}
	return nil
}

// object is a JSON or YAML object.
type object = map[string]any

// index is the number of an element in the arguments of a pod. Kubernetes replaces it.
const index = "$(JOB_COMPLETION_INDEX)"

// escape returns a word of a command such that Kubernetes replaces nothing in it.
func escape(word string) string { return strings.ReplaceAll(word, "$", "$$") }

// manifest returns the manifest of the job. An index that fails with a wrong option or a bad input
// is not tried again. A pod that the cluster evicts does not count as a failure.
func (s *Submission) manifest(o SubmitOptions) object {
	metadata := object{"name": s.name}
	args := s.arguments(o, index)
	for i, word := range args {
		if word != index {
			args[i] = escape(word)
		}
	}
	spec := object{
		"completionMode":       "Indexed",
		"completions":          s.Elements,
		"parallelism":          min(s.Elements, cmp.Or(o.Concurrency, defaultParallelism)),
		"backoffLimitPerIndex": o.Attempts,
		"podFailurePolicy": object{"rules": []object{
			{"action": "Ignore", "onPodConditions": []object{{"type": "DisruptionTarget", "status": "True"}}},
			{"action": "FailIndex", "onExitCodes": object{"containerName": "spt", "operator": "In", "values": []int{run.ExitUsage, run.ExitInput}}},
		}},
		"template": object{"spec": object{
			"restartPolicy":                 "Never",
			"terminationGracePeriodSeconds": saveSeconds,
			"containers": []object{{
				"name":         "spt",
				"image":        o.Image,
				"command":      []string{escape(o.Program)},
				"args":         args,
				"workingDir":   string(s.sweep),
				"volumeMounts": []object{{"name": "sweep", "mountPath": o.Mount}},
			}},
			"volumes": []object{{"name": "sweep", "persistentVolumeClaim": object{"claimName": o.Claim}}},
		}},
	}
	if o.Queue != "" {
		metadata["labels"] = object{"kueue.x-k8s.io/queue-name": o.Queue}
		spec["suspend"] = true // until Kueue admits the job
	}
	return object{"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
}
