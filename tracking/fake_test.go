package tracking_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeMLflow is an MLflow server in memory. It refuses what a real server refuses, and fails the
// test if a value arrives twice.
type fakeMLflow struct {
	*httptest.Server
	t *testing.T

	mu          sync.Mutex
	uri         string // URI of the files of runs, without the ID; empty: the server takes files
	experiments []string
	runs        []*fakeRun
	uploads     int
	requests    int
	// fail may answer a request in place of the server. It then returns true. lost reports that the
	// server shall do the work first.
	fail func(n int, w http.ResponseWriter, r *http.Request) bool
	lost bool
}

// fakeRun is a run of the server.
type fakeRun struct {
	id, experiment, name, status string
	start, end                   int64
	params, tags, files          map[string]string
	metrics                      map[string]float64 // by key and step
	times                        map[string]int64   // by key and step, in ms
	last                         map[string]int64   // the last step, by key
}

// TestMain removes the variables of MLflow, which would direct the tests to a real server.
func TestMain(m *testing.M) {
	for _, name := range []string{"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_EXPERIMENT_NAME"} {
		os.Unsetenv(name)
	}
	os.Exit(m.Run())
}

func newFake(t *testing.T) *fakeMLflow {
	f := &fakeMLflow{t: t}
	f.Server = httptest.NewServer(f)
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

// set changes the failure of the server.
func (f *fakeMLflow) set(fail func(n int, w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.requests = fail, 0
}

func (f *fakeMLflow) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	f.mu.Lock()
	fail, n, lost := f.fail, f.requests, f.lost
	f.requests++
	f.mu.Unlock()
	if fail != nil && lost {
		recorder := httptest.NewRecorder()
		f.serve(recorder, r, body)
	}
	if fail != nil && fail(n, w, r) {
		return
	}
	f.serve(w, r, body)
}

// serve answers a request as MLflow 3.17 does.
func (f *fakeMLflow) serve(w http.ResponseWriter, r *http.Request, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	refuse := func(status int, code string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"error_code": code, "message": code})
	}
	if path, ok := strings.CutPrefix(r.URL.Path, "/api/2.0/mlflow-artifacts/artifacts/"); ok && r.Method == http.MethodPut {
		id, name, _ := strings.Cut(path, "/artifacts/")
		run := f.run(strings.TrimPrefix(id, "1/"))
		if run == nil {
			refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST")
			return
		}
		if run.files[name] == string(body) {
			f.t.Errorf("%s was uploaded twice", name)
		}
		f.uploads++
		run.files[name] = string(body)
		fmt.Fprint(w, "{}")
		return
	}
	var q struct {
		Name       string   `json:"name"`
		Experiment string   `json:"experiment_id"`
		RunName    string   `json:"run_name"`
		ID         string   `json:"run_id"`
		Status     string   `json:"status"`
		Filter     string   `json:"filter"`
		Start      int64    `json:"start_time"`
		End        int64    `json:"end_time"`
		IDs        []string `json:"experiment_ids"`
		Params     []struct{ Key, Value string }
		Tags       []struct{ Key, Value string }
		Metrics    []struct {
			Key             string
			Value           float64
			Timestamp, Step int64
		}
	}
	if r.Method == http.MethodPost {
		if err := json.Unmarshal(body, &q); err != nil {
			f.t.Errorf("%s: %v: %s", r.URL, err, body)
		}
	}
	run := f.run(q.ID)
	switch endpoint := strings.TrimPrefix(r.URL.Path, "/api/2.0/mlflow/"); endpoint {
	case "experiments/get-by-name":
		if i := slices.Index(f.experiments, r.URL.Query().Get("experiment_name")); i >= 0 {
			fmt.Fprintf(w, `{"experiment":{"experiment_id":"%d"}}`, i+1)
			return
		}
		refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST")
	case "experiments/create":
		if slices.Contains(f.experiments, q.Name) {
			refuse(http.StatusBadRequest, "RESOURCE_ALREADY_EXISTS")
			return
		}
		f.experiments = append(f.experiments, q.Name)
		fmt.Fprintf(w, `{"experiment_id":"%d"}`, len(f.experiments))
	case "runs/search":
		tag, value, _ := strings.Cut(strings.TrimPrefix(q.Filter, "tags."), " = ")
		var found []any
		for _, r := range f.runs {
			if r.tags[tag] == strings.Trim(value, "'") && slices.Contains(q.IDs, r.experiment) {
				found = append(found, f.document(r))
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"runs": found})
	case "runs/create":
		run := &fakeRun{id: fmt.Sprint("run", len(f.runs)), experiment: q.Experiment, name: q.RunName, status: "RUNNING", start: q.Start,
			params: map[string]string{}, tags: map[string]string{}, files: map[string]string{}, metrics: map[string]float64{}, times: map[string]int64{}, last: map[string]int64{}}
		for _, tag := range q.Tags {
			run.tags[tag.Key] = tag.Value
		}
		f.runs = append(f.runs, run)
		_ = json.NewEncoder(w).Encode(map[string]any{"run": f.document(run)})
	case "runs/get":
		if run = f.run(r.URL.Query().Get("run_id")); run == nil {
			refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"run": f.document(run)})
	case "runs/update":
		run.status, run.end = q.Status, q.End
		fmt.Fprint(w, "{}")
	case "runs/log-batch":
		for _, p := range q.Params {
			if old, has := run.params[p.Key]; has && old != p.Value {
				refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE")
				return
			}
			run.params[p.Key] = p.Value
		}
		for _, tag := range q.Tags {
			run.tags[tag.Key] = tag.Value
		}
		for _, m := range q.Metrics {
			key := fmt.Sprintf("%s@%d", m.Key, m.Step)
			if _, twice := run.metrics[key]; twice {
				f.t.Errorf("%s was sent twice", key)
			}
			run.metrics[key], run.times[key] = m.Value, m.Timestamp
			run.last[m.Key] = max(run.last[m.Key], m.Step)
		}
		fmt.Fprint(w, "{}")
	default:
		f.t.Errorf("unexpected request %s %s", r.Method, r.URL)
		refuse(http.StatusNotFound, "ENDPOINT_NOT_FOUND")
	}
}

func (f *fakeMLflow) run(id string) *fakeRun {
	for _, r := range f.runs {
		if r.id == id {
			return r
		}
	}
	return nil
}

// document returns a run as the server answers it. Steps are strings, as some servers send them.
func (f *fakeMLflow) document(r *fakeRun) map[string]any {
	list := func(m map[string]string) (out []map[string]string) {
		for key, value := range m {
			out = append(out, map[string]string{"key": key, "value": value})
		}
		return out
	}
	var metrics []map[string]any
	for key, step := range r.last {
		metrics = append(metrics, map[string]any{"key": key, "step": fmt.Sprint(step), "value": 0})
	}
	uri := "mlflow-artifacts:/1/" + r.id + "/artifacts"
	if f.uri != "" {
		uri = f.uri + r.id
	}
	return map[string]any{
		"info": map[string]any{"run_id": r.id, "experiment_id": r.experiment, "status": r.status, "artifact_uri": uri, "lifecycle_stage": "active"},
		"data": map[string]any{"params": list(r.params), "tags": list(r.tags), "metrics": metrics},
	}
}

// wait waits until the server has what ok asks for.
func (f *fakeMLflow) wait(what string, ok func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		f.mu.Lock()
		done := ok()
		f.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("the server does not get %s", what)
		}
	}
}
