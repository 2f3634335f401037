// Package mlflow writes runs to an MLflow server, through the REST interface 2.0 of MLflow. Begin
// with [New]. [Client.Create] makes a run, [Client.Find] and [Client.Get] find one, [Client.Log]
// adds values to it, and [Client.Upload] stores a file with it.
//
// A Client makes each request once. [Temporary] tells whether a later attempt may succeed. After a
// request whose answer was lost, [Client.Get] tells what the server has.
package mlflow

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Client talks to one MLflow server. Make it with [New].
type Client struct {
	base   *url.URL // without user and password
	auth   string   // value of the header Authorization; empty for none
	client http.Client
}

// CheckAddress returns an error if address is not the URL of a server. The error does not hold the
// password in the URL.
func CheckAddress(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return errors.New("the address of the MLflow server is no URL; expected one such as http://127.0.0.1:5000")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("address %s of the MLflow server: expected a URL that begins with http:// or https://, such as http://127.0.0.1:5000", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("address %s://%s of the MLflow server: expected a URL without ? and #", u.Scheme, u.Host)
	}
	return nil
}

// Public returns the address of a server without user and password, for messages. An address that
// [CheckAddress] refuses gives an empty text.
func Public(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	u.User = nil
	return u.String()
}

// requestTimeout is the time that a request without a file may take.
const requestTimeout = 15 * time.Second

// New returns a Client for the server at address, an http or https URL. The user and the password
// come from the address, or from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. Without
// them, MLFLOW_TRACKING_TOKEN is the bearer token, as for the clients of MLflow.
func New(address string) (*Client, error) {
	if err := CheckAddress(address); err != nil {
		return nil, err
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	c := &Client{base: u}
	user, token := u.User, os.Getenv("MLFLOW_TRACKING_TOKEN")
	if name, password := os.Getenv("MLFLOW_TRACKING_USERNAME"), os.Getenv("MLFLOW_TRACKING_PASSWORD"); user == nil && name != "" && password != "" {
		user = url.UserPassword(name, password)
	}
	switch {
	case user != nil:
		password, _ := user.Password()
		c.auth = "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
	case token != "":
		c.auth = "Bearer " + token
	}
	u.User = nil
	u.Path = strings.TrimRight(u.Path, "/")
	c.client.Transport = http.DefaultTransport.(*http.Transport).Clone()
	// A redirected request would lose its method or its body, and could take the password to
	// another server.
	c.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

// String returns the URL of the server, without user and password.
func (c *Client) String() string { return c.base.String() }

// Close closes the idle connections.
func (c *Client) Close() { c.client.CloseIdleConnections() }

// Error is an answer of the server that refuses a request.
type Error struct {
	Status  int    // HTTP status
	Code    string // error code of MLflow, such as RESOURCE_DOES_NOT_EXIST; may be empty
	Message string
}

func (e *Error) Error() string {
	text := fmt.Sprintf("the server answers %d %s", e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		text += ": " + e.Message
	}
	switch {
	case e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden:
		text += "; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
	case e.Status/100 == 3:
		text += "; give the URL to which the server redirects"
	case e.Status == http.StatusNotFound && e.Code == "":
		text += "; check that the URL is that of an MLflow server"
	}
	return text
}

// The error codes of MLflow that callers distinguish.
const (
	NotFound = "RESOURCE_DOES_NOT_EXIST"
	exists   = "RESOURCE_ALREADY_EXISTS"
)

// Is reports whether err is an [Error] with that code.
func Is(err error, code string) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == code
}

// Temporary reports whether the request that failed with err may succeed later: the server does not
// answer, or answers that it is busy or broken.
func Temporary(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return err != nil
	}
	return e.Status/100 == 5 || e.Status == http.StatusRequestTimeout || e.Status == http.StatusTooEarly || e.Status == http.StatusTooManyRequests
}

// within returns a context for a request that may take a time, with an error in words.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("the server does not answer within %v", limit.Round(time.Second)))
}

// maxAnswer limits the answer of the server that is read, in bytes.
const maxAnswer = 16 << 20

// send sends a request and returns the body of the answer. query may be nil.
func (c *Client) send(ctx context.Context, method, location string, query url.Values, contentType string, body io.Reader, size int64) ([]byte, error) {
	u := *c.base
	u.Path += location
	u.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	r.ContentLength = size
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if c.auth != "" {
		r.Header.Set("Authorization", c.auth)
	}
	answer, err := c.client.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the address is stated by the caller
		}
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if answer.StatusCode/100 != 2 {
		e := &Error{Status: answer.StatusCode}
		var refusal struct {
			Code    string `json:"error_code"`
			Message string `json:"message"`
		}
		if json.Unmarshal(text, &refusal) == nil {
			e.Code, e.Message = refusal.Code, printable(refusal.Message)
		}
		return nil, e
	}
	if err != nil {
		return nil, fmt.Errorf("reading the answer of the server: %w", cmp.Or(context.Cause(ctx), err))
	}
	return text, nil
}

// printable returns the beginning of a text of the server on one line, without control characters.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "…"
	}
	return strings.Join(strings.Fields(s), " ")
}

// call calls an endpoint of the REST interface. With a request it posts it, otherwise it gets with
// the query. It decodes the answer into reply, unless reply is nil.
func (c *Client) call(ctx context.Context, endpoint string, query url.Values, request, reply any) error {
	ctx, cancel := within(ctx, requestTimeout)
	defer cancel()
	var text []byte
	var err error
	if request == nil {
		text, err = c.send(ctx, http.MethodGet, "/api/2.0/mlflow/"+endpoint, query, "", nil, 0)
	} else {
		var body []byte
		if body, err = json.Marshal(request); err != nil {
			return err
		}
		text, err = c.send(ctx, http.MethodPost, "/api/2.0/mlflow/"+endpoint, nil, "application/json", bytes.NewReader(body), int64(len(body)))
	}
	if err == nil && reply != nil && json.Unmarshal(text, reply) != nil {
		err = errNoMLflow
	}
	return err
}

var errNoMLflow = errors.New("the answer is not that of an MLflow server; check the URL, and that no proxy answers instead of the server")

// Experiment returns the ID of the experiment with that name. It makes the experiment if there is
// none.
func (c *Client) Experiment(ctx context.Context, name string) (string, error) {
	var found struct {
		Experiment struct {
			ID string `json:"experiment_id"`
		} `json:"experiment"`
	}
	get := func() error {
		err := c.call(ctx, "experiments/get-by-name", url.Values{"experiment_name": {name}}, nil, &found)
		if err == nil && found.Experiment.ID == "" {
			err = errNoMLflow
		}
		return err
	}
	err := get()
	if Is(err, NotFound) {
		var made struct {
			ID string `json:"experiment_id"`
		}
		err = c.call(ctx, "experiments/create", nil, map[string]string{"name": name}, &made)
		switch {
		case Is(err, exists): // another program has made it meanwhile
			err = get()
		case err == nil && made.ID == "":
			err = errNoMLflow
		case err == nil:
			return made.ID, nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("opening the experiment %q: %w", name, err)
	}
	return found.Experiment.ID, nil
}

// Status is the status of a run on the server.
type Status string

// The statuses that a run can have.
const (
	Running  Status = "RUNNING"
	Finished Status = "FINISHED"
	Killed   Status = "KILLED"
)

// Run is a run on the server.
type Run struct {
	ID          string
	Experiment  string // ID of the experiment
	Status      Status
	ArtifactURI string            // where the files of the run are
	Params      map[string]string // parameters, which cannot be changed
	Tags        map[string]string
	Steps       map[string]int64 // the last step of each metric
}

// document is a run in the answers of the server.
type document struct {
	Info struct {
		ID          string `json:"run_id"`
		Experiment  string `json:"experiment_id"`
		Status      Status `json:"status"`
		ArtifactURI string `json:"artifact_uri"`
		Stage       string `json:"lifecycle_stage"`
	} `json:"info"`
	Data struct {
		Params, Tags []struct{ Key, Value string }
		Metrics      []struct {
			Key  string      `json:"key"`
			Step json.Number `json:"step"` // a number, or a string as in protobuf
		} `json:"metrics"`
	} `json:"data"`
}

func (d document) run() (*Run, error) {
	if d.Info.ID == "" || d.Info.Experiment == "" {
		return nil, errNoMLflow
	}
	r := &Run{ID: d.Info.ID, Experiment: d.Info.Experiment, Status: d.Info.Status, ArtifactURI: d.Info.ArtifactURI,
		Params: map[string]string{}, Tags: map[string]string{}, Steps: map[string]int64{}}
	for _, p := range d.Data.Params {
		r.Params[p.Key] = p.Value
	}
	for _, t := range d.Data.Tags {
		r.Tags[t.Key] = t.Value
	}
	for _, m := range d.Data.Metrics {
		step, err := m.Step.Int64()
		if err != nil && m.Step != "" { // protobuf may leave out a 0
			return nil, errNoMLflow
		}
		r.Steps[m.Key] = step
	}
	return r, nil
}

// Create makes a run in an experiment. The run has the status Running.
func (c *Client) Create(ctx context.Context, experiment, name string, started time.Time, tags map[string]string) (*Run, error) {
	var made struct{ Run document }
	err := c.call(ctx, "runs/create", nil, map[string]any{"experiment_id": experiment, "run_name": name, "start_time": started.UnixMilli(), "tags": pairs(tags)}, &made)
	var r *Run
	if err == nil {
		r, err = made.Run.run()
	}
	if err != nil {
		return nil, fmt.Errorf("making a run: %w", err)
	}
	return r, nil
}

// Get returns the run with that ID. If there is no such run, or a user has deleted it, [Is] of the
// error and NotFound is true.
func (c *Client) Get(ctx context.Context, id string) (*Run, error) {
	var found struct{ Run document }
	err := c.call(ctx, "runs/get", url.Values{"run_id": {id}}, nil, &found)
	if err == nil && found.Run.Info.Stage == "deleted" {
		err = &Error{Status: http.StatusNotFound, Code: NotFound, Message: "the run was deleted"}
	}
	var r *Run
	if err == nil {
		r, err = found.Run.run()
	}
	if err != nil {
		return nil, fmt.Errorf("reading run %s: %w", printable(id), err)
	}
	return r, nil
}

// Find returns the run of an experiment whose tag has that value, or nil if there is none. tag and
// value must be letters, digits and underscores.
func (c *Client) Find(ctx context.Context, experiment, tag, value string) (*Run, error) {
	var found struct{ Runs []document }
	err := c.call(ctx, "runs/search", nil, map[string]any{"experiment_ids": []string{experiment}, "filter": fmt.Sprintf("tags.%s = '%s'", tag, value), "max_results": 1}, &found)
	if err != nil {
		return nil, fmt.Errorf("searching for the run: %w", err)
	}
	if len(found.Runs) == 0 {
		return nil, nil
	}
	return found.Runs[0].run()
}

// Update sets the status of a run. ended is the time of its end; the zero time leaves the end out.
func (c *Client) Update(ctx context.Context, id string, status Status, ended time.Time) error {
	request := map[string]any{"run_id": id, "status": status}
	if !ended.IsZero() {
		request["end_time"] = ended.UnixMilli()
	}
	if err := c.call(ctx, "runs/update", nil, request, nil); err != nil {
		return fmt.Errorf("setting the status of the run: %w", err)
	}
	return nil
}

// Metric is the value of a metric at a step.
type Metric struct {
	Key   string // see [Key]
	Value float64
	At    time.Time
	Step  int64
}

// MarshalJSON encodes the metric as the server takes it.
func (m Metric) MarshalJSON() ([]byte, error) {
	var value any = m.Value
	switch {
	case math.IsNaN(m.Value):
		value = "NaN"
	case math.IsInf(m.Value, 1):
		value = "Infinity"
	case math.IsInf(m.Value, -1):
		value = "-Infinity"
	}
	return json.Marshal(map[string]any{"key": m.Key, "value": value, "timestamp": m.At.UnixMilli(), "step": m.Step})
}

// Batch holds values of a run. Params cannot be changed later.
type Batch struct {
	Metrics      []Metric
	Params, Tags map[string]string // see Key for the names
}

// The limits of the server for one request of Log.
const (
	maxMetrics = 1000
	maxTexts   = 100 // params, and tags
	maxParam   = 6000
	maxTag     = 8000
	maxKey     = 250
)

// Log adds values to a run, in as many requests as the limits of the server need. It cuts params
// and tags that are too long. After an error, the server may have some of the values.
func (c *Client) Log(ctx context.Context, id string, b Batch) error {
	params, tags := pairs(b.Params), pairs(b.Tags)
	for i := range params {
		params[i].Value = cut(params[i].Value, maxParam)
	}
	for i := range tags {
		tags[i].Value = cut(tags[i].Value, maxTag)
	}
	for len(b.Metrics)+len(params)+len(tags) > 0 {
		// One request has at most 1000 values in all.
		p, t := min(len(params), maxTexts), min(len(tags), maxTexts)
		m := min(len(b.Metrics), maxMetrics-p-t)
		request := map[string]any{"run_id": id, "metrics": append([]Metric{}, b.Metrics[:m]...), "params": params[:p], "tags": tags[:t]}
		if err := c.call(ctx, "runs/log-batch", nil, request, nil); err != nil {
			return fmt.Errorf("sending values: %w", err)
		}
		b.Metrics, params, tags = b.Metrics[m:], params[p:], tags[t:]
	}
	return nil
}

// pair is a param or a tag in a request.
type pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// pairs returns the entries of a map, sorted by key.
func pairs(m map[string]string) []pair {
	list := []pair{}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		list = append(list, pair{key, m[key]})
	}
	return list
}

// cut returns at most the given number of characters of a text.
func cut(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// Key returns a name as a key of a metric or a param. The server takes letters, digits,
// underscores, dashes, periods, spaces and slashes. A percent sign becomes "pct", and any other
// character an underscore.
func Key(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r == '.' || r == ' ' || r == '/' || r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '_'
	}, strings.ReplaceAll(name, "%", "pct"))
	return name[:min(len(name), maxKey)]
}

// ErrNoUpload reports that the server takes no files for a run: it leaves them to the clients,
// which write them to a disk or a bucket.
var ErrNoUpload = errors.New("the MLflow server does not take files itself")

// Upload stores a file of the given size in bytes under a name with the run. Another file of this
// name is replaced. If the server takes no files, the error is ErrNoUpload.
func (c *Client) Upload(ctx context.Context, r *Run, name string, content io.Reader, size int64) error {
	u, err := url.Parse(r.ArtifactURI)
	// A URI without a host means the server itself. Another host must not get the password.
	if err != nil || u.Scheme != "mlflow-artifacts" || u.Host != "" && u.Host != c.base.Host {
		return ErrNoUpload
	}
	// 15 s, and the time at 100 kB/s
	ctx, cancel := within(ctx, requestTimeout+time.Duration(size/100)*time.Millisecond)
	defer cancel()
	location := path.Join("/api/2.0/mlflow-artifacts/artifacts", u.Path, name)
	if _, err := c.send(ctx, http.MethodPut, location, nil, "application/octet-stream", content, size); err != nil {
		return fmt.Errorf("uploading %s: %w", name, err)
	}
	return nil
}
