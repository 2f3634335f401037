// Package kubernetestest checks the manifest that 'spt sweep submit --engine kubernetes' writes
// against the types of Kubernetes. The package is a module of its own.
package kubernetestest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// submit writes the manifest for a sweep folder of n jobs and returns it with the path of the
// folder.
func submit(t *testing.T, program string, n int, flags ...string) (manifest []byte, folder string) {
	folder = filepath.Join(t.TempDir(), "A very long name of a sweep folder $(HOME) -", "Über 100% of the longest names of all folders_")
	if err := os.MkdirAll(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	var jobs strings.Builder
	for i := range n {
		fmt.Fprintf(&jobs, `{"kind":"job","version":1,"id":"%012d","stage":"final"}`+"\n", i)
	}
	if err := os.WriteFile(filepath.Join(folder, "jobs.jsonl"), []byte(jobs.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"sweep", "submit", folder, "--engine", "kubernetes"}, flags...)
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	manifest, err := os.ReadFile(filepath.Join(folder, "submit", "1", "job.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return manifest, folder
}

func TestManifest(t *testing.T) {
	program := filepath.Join(t.TempDir(), "spt")
	build := exec.Command("go", "build", "-o", program, "./cmd/spt")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, out)
	}
	for _, test := range []struct {
		name                 string
		jobs                 int
		flags                []string
		elements, concurrent int32
		queue, command       string
	}{
		{name: "defaults", jobs: 12, elements: 12, concurrent: 8, command: "spt"},
		{name: "few jobs", jobs: 2, elements: 2, concurrent: 2, command: "spt"},
		{name: "all flags", jobs: 1200, flags: []string{"--concurrency", "40", "--queue", "gpus", "--program", "/opt/$spt", "--attempts", "3"},
			elements: 1000, concurrent: 40, queue: "gpus", command: "/opt/$$spt"},
	} {
		t.Run(test.name, func(t *testing.T) {
			manifest, folder := submit(t, program, test.jobs, append([]string{"--image", "registry/spt:1", "--claim", "work"}, test.flags...)...)
			var job batchv1.Job
			if err := yaml.UnmarshalStrict(manifest, &job); err != nil {
				t.Fatalf("%v\n%s", err, manifest)
			}
			check := func(what string, got, want any) {
				t.Helper()
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%s: %v, expected %v", what, got, want)
				}
			}
			attempts := int32(5)
			if strings.Contains(strings.Join(test.flags, " "), "--attempts 3") {
				attempts = 3
			}
			check("API version", job.APIVersion, "batch/v1")
			check("kind", job.Kind, "Job")
			check("completion mode", job.Spec.CompletionMode, new(batchv1.IndexedCompletion))
			check("completions", job.Spec.Completions, &test.elements)
			check("parallelism", job.Spec.Parallelism, &test.concurrent)
			check("attempts of an index", job.Spec.BackoffLimitPerIndex, &attempts)
			// The pod of an element has the name of the job and the index as its host name.
			if wrong := validation.IsDNS1123Label(fmt.Sprintf("%s-%d", job.Name, test.elements-1)); len(wrong) > 0 {
				t.Errorf("name %q: %v", job.Name, wrong)
			}
			if test.queue != "" {
				check("suspended", job.Spec.Suspend, new(true))
				check("labels", job.Labels, map[string]string{"kueue.x-k8s.io/queue-name": test.queue})
			} else {
				check("suspended", job.Spec.Suspend, (*bool)(nil))
			}

			pod := job.Spec.Template.Spec
			check("restart policy", pod.RestartPolicy, corev1.RestartPolicyNever)
			check("time to save", pod.TerminationGracePeriodSeconds, new(int64(120)))
			if len(pod.Containers) != 1 || len(pod.Volumes) != 1 || pod.Volumes[0].PersistentVolumeClaim == nil {
				t.Fatalf("containers %v, volumes %v", pod.Containers, pod.Volumes)
			}
			container := pod.Containers[0]
			check("claim", pod.Volumes[0].PersistentVolumeClaim.ClaimName, "work")
			check("mounts", container.VolumeMounts, []corev1.VolumeMount{{Name: pod.Volumes[0].Name, MountPath: filepath.Dir(folder)}})
			check("image", container.Image, "registry/spt:1")
			check("working directory", container.WorkingDir, folder)
			check("command", container.Command, []string{test.command})
			escaped := strings.ReplaceAll(folder, "$", "$$")
			check("arguments", container.Args, []string{"sweep", "run", escaped, "--list", escaped + "/submit/1/jobs.txt",
				"--index", "$(JOB_COMPLETION_INDEX)", "--of", fmt.Sprint(test.elements), "--attempts", fmt.Sprint(attempts)})

			rules := job.Spec.PodFailurePolicy.Rules
			if len(rules) != 2 {
				t.Fatalf("rules %+v", rules)
			}
			check("rule of evicted pods", rules[0], batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionIgnore,
				OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}})
			check("rule of final errors", rules[1], batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionFailIndex,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{ContainerName: &container.Name, Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{2, 3}}})

			// The check of fields finds a misspelt one.
			misspelt := strings.Replace(string(manifest), "backoffLimitPerIndex", "backofLimitPerIndex", 1)
			if err := yaml.UnmarshalStrict([]byte(misspelt), &batchv1.Job{}); err == nil || !strings.Contains(err.Error(), "backofLimitPerIndex") {
				t.Errorf("misspelt field: %v", err)
			}
		})
	}
}
