package mlflow_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/tracking/mlflow"
)

// client returns a client of a server with that handler. No variable of MLflow is set.
func client(t *testing.T, prefix string, handler http.HandlerFunc) *mlflow.Client {
	t.Helper()
	for _, name := range []string{"USERNAME", "PASSWORD", "TOKEN"} {
		t.Setenv("MLFLOW_TRACKING_"+name, "")
	}
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	c, err := mlflow.New(s.URL + prefix)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAddress checks which addresses are taken, and that no message holds a password.
func TestAddress(t *testing.T) {
	for address, ok := range map[string]bool{
		"http://127.0.0.1:5000": true, "https://mlflow.example.com/prefix/": true, "http://me:secret@host": true,
		"": false, "127.0.0.1:5000": false, "ftp://me:secret@host": false, "http://": false, "file:///tmp/mlruns": false, "sqlite:///x.db": false,
		"databricks": false, "http://me:secret@host/?a=b": false, "http://me:secret@host/%zz": false, "http://me:secret@ho st": false,
	} {
		err := mlflow.CheckAddress(address)
		if (err == nil) != ok || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", address, err)
		}
		if c, err := mlflow.New(address); (err == nil) != ok || err == nil && strings.Contains(c.String(), "secret") {
			t.Errorf("%q: New: %v, %v", address, c, err)
		}
	}
	if got := mlflow.Public("https://me:secret@host/x"); got != "https://host/x" {
		t.Errorf("public address %s", got)
	}
}

// TestAuthorization checks the precedence of the MLflow client 3.17: user and password, then the
// token. requests, which it uses, prefers the user in the URL.
func TestAuthorization(t *testing.T) {
	var got string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		fmt.Fprint(w, `{"experiment":{"experiment_id":"1"}}`)
	}))
	defer s.Close()
	for _, c := range []struct{ user, password, token, inURL, want string }{
		{"", "", "", "", ""},
		{"", "", "tok", "", "Bearer tok"},
		{"me", "pass", "tok", "", "Basic bWU6cGFzcw=="},
		{"me", "", "tok", "", "Bearer tok"},
		{"me", "pass", "tok", "you:word@", "Basic eW91OndvcmQ="},
	} {
		t.Setenv("MLFLOW_TRACKING_USERNAME", c.user)
		t.Setenv("MLFLOW_TRACKING_PASSWORD", c.password)
		t.Setenv("MLFLOW_TRACKING_TOKEN", c.token)
		client, err := mlflow.New(strings.Replace(s.URL, "://", "://"+c.inURL, 1))
		if err != nil {
			t.Fatal(err)
		}
		got = "no request"
		if _, err := client.Experiment(t.Context(), "spt"); err != nil || got != c.want {
			t.Errorf("%v: %q, %v", c, got, err)
		}
	}
}

// TestLog checks that the requests keep the limits of the server and carry every value once.
func TestLog(t *testing.T) {
	type request struct {
		ID      string `json:"run_id"`
		Metrics []struct {
			Key             string
			Value           any
			Timestamp, Step int64
		}
		Params, Tags []struct{ Key, Value string }
	}
	metrics, params, tags := map[string]any{}, map[string]string{}, map[string]string{}
	c := client(t, "/prefix/", func(w http.ResponseWriter, r *http.Request) {
		var q request
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.URL.Path != "/prefix/api/2.0/mlflow/runs/log-batch" || r.Method != http.MethodPost {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		if n := len(q.Metrics) + len(q.Params) + len(q.Tags); n == 0 || n > 1000 || len(q.Params) > 100 || len(q.Tags) > 100 || q.ID != "run" {
			t.Errorf("run %s: %d metrics, %d params, %d tags", q.ID, len(q.Metrics), len(q.Params), len(q.Tags))
		}
		for _, m := range q.Metrics {
			key := fmt.Sprint(m.Key, m.Step, m.Timestamp)
			if _, twice := metrics[key]; twice {
				t.Errorf("%s was sent twice", key)
			}
			metrics[key] = m.Value
		}
		for _, p := range q.Params {
			params[p.Key] += p.Value
		}
		for _, p := range q.Tags {
			tags[p.Key] += p.Value
		}
	})
	b := mlflow.Batch{Params: map[string]string{}, Tags: map[string]string{}}
	at := time.UnixMilli(1700000000123)
	for i := range 2500 {
		b.Metrics = append(b.Metrics, mlflow.Metric{Key: "m", Value: float64(i), At: at, Step: int64(i)})
	}
	special := map[string]float64{"nan": math.NaN(), "inf": math.Inf(1), "ninf": math.Inf(-1)}
	for key, v := range special {
		b.Metrics = append(b.Metrics, mlflow.Metric{Key: key, Value: v, At: at})
	}
	for i := range 230 {
		b.Params[fmt.Sprint("p", i)], b.Tags[fmt.Sprint("t", i)] = fmt.Sprint(i), strings.Repeat("é", 9000)
	}
	b.Params["long"] = strings.Repeat("é", 6001)
	if err := c.Log(t.Context(), "run", b); err != nil {
		t.Fatal(err)
	}
	for i := range 2500 {
		if v := metrics[fmt.Sprint("m", i, at.UnixMilli())]; v != float64(i) {
			t.Errorf("metric of step %d is %v", i, v)
		}
	}
	for key, want := range map[string]string{"nan": "NaN", "inf": "Infinity", "ninf": "-Infinity"} {
		if v := metrics[fmt.Sprint(key, 0, at.UnixMilli())]; v != want {
			t.Errorf("%s is %v", key, v)
		}
	}
	if len(params) != 231 || params["p229"] != "229" || len([]rune(params["long"])) != 6000 || len(tags) != 230 || len([]rune(tags["t3"])) != 8000 {
		t.Errorf("%d params, %d tags", len(params), len(tags))
	}
	if err := c.Log(t.Context(), "run", mlflow.Batch{}); err != nil {
		t.Error(err)
	}
}

// TestKey checks the characters of keys.
func TestKey(t *testing.T) {
	for name, want := range map[string]string{
		"train_loss": "train_loss", "candidates/0.5%-lr-0.01/lr": "candidates/0.5pct-lr-0.01/lr",
		"a:b\n\"é": "a_b___", strings.Repeat("x", 300): strings.Repeat("x", 250),
	} {
		if got := mlflow.Key(name); got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
	}
}

// TestErrors checks which errors are temporary, and their messages.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		status    int
		body      string
		temporary bool
		message   string
	}{
		{401, "You are not authenticated", false, "MLFLOW_TRACKING_TOKEN"},
		{403, `{"error_code":"PERMISSION_DENIED","message":"no\u001b[31m red"}`, false, "no [31m red"},
		{404, "<html>", false, "URL is that of an MLflow server"},
		{400, `{"error_code":"INVALID_PARAMETER_VALUE","message":"` + strings.Repeat("x", 5000) + `"}`, false, "x…"},
		{302, "", false, "redirects"},
		{408, "", true, "408"},
		{429, "", true, "429"},
		{500, `{"error_code":3}`, true, "500"},
		{502, "<html>", true, "Bad Gateway"},
		{200, "<html>login</html>", true, "not that of an MLflow server"},
		{200, "{}", true, "not that of an MLflow server"},
		{200, `{"run":{"info":{"run_id":"a","experiment_id":"1"},"data":{"metrics":[{"key":"x","step":1.5}]}}}`, true, "not that of an MLflow server"},
		{200, strings.Repeat(" ", 17<<20), true, "not that of an MLflow server"},
	} {
		client := client(t, "", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		_, err := client.Get(t.Context(), "id")
		if err == nil || mlflow.Temporary(err) != c.temporary || !strings.Contains(err.Error(), c.message) || len(err.Error()) > 600 || strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%d %.60s: temporary %v: %v", c.status, c.body, mlflow.Temporary(err), err)
		}
	}
	if mlflow.Temporary(nil) {
		t.Error("no error is temporary")
	}
}

// TestExperiment checks that an experiment is made once, also if another program makes it at the
// same time.
func TestExperiment(t *testing.T) {
	for _, first := range []bool{true, false} {
		asked := 0
		c := client(t, "", func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "get-by-name"):
				if asked++; asked == 1 {
					w.WriteHeader(404)
					fmt.Fprint(w, `{"error_code":"RESOURCE_DOES_NOT_EXIST"}`)
				} else {
					fmt.Fprint(w, `{"experiment":{"experiment_id":"7"}}`)
				}
			case first:
				fmt.Fprint(w, `{"experiment_id":"7"}`)
			default:
				w.WriteHeader(400)
				fmt.Fprint(w, `{"error_code":"RESOURCE_ALREADY_EXISTS"}`)
			}
		})
		if id, err := c.Experiment(t.Context(), "a b"); id != "7" || err != nil {
			t.Errorf("first %v: %q, %v", first, id, err)
		}
	}
}

// TestUpload checks where files go, and that no other host gets them.
func TestUpload(t *testing.T) {
	var got, content string
	c := client(t, "", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got, content = r.Method+" "+r.URL.Path, string(body)
	})
	host := strings.TrimPrefix(c.String(), "http://")
	for uri, want := range map[string]string{
		"mlflow-artifacts:/1/abc/artifacts":               "PUT /api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts/result.json",
		"mlflow-artifacts://" + host + "/1/abc/artifacts": "PUT /api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts/result.json",
		"mlflow-artifacts://elsewhere:80/1/a":             "",
		"file:///tmp/mlruns/1":                            "",
		"s3://bucket/1":                                   "",
		"/plain/path":                                     "",
		"%zz":                                             "",
	} {
		got = ""
		err := c.Upload(t.Context(), &mlflow.Run{ArtifactURI: uri}, "result.json", strings.NewReader("text"), 4)
		if got != want || (want == "") != errors.Is(err, mlflow.ErrNoUpload) || want != "" && (err != nil || content != "text") {
			t.Errorf("%s: %q, %v, want %q", uri, got, err, want)
		}
	}
}

// TestDeleted checks that a run that a user has deleted counts as missing.
func TestDeleted(t *testing.T) {
	c := client(t, "", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"run":{"info":{"run_id":"a","experiment_id":"1","lifecycle_stage":"deleted"}}}`)
	})
	if _, err := c.Get(t.Context(), "a"); !mlflow.Is(err, mlflow.NotFound) {
		t.Errorf("the error is %v", err)
	}
}
