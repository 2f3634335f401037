package sweep

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/run"
)

// rayAddress is the default address of the dashboard of Ray.
const rayAddress = "http://127.0.0.1:8265"

// submitRay submits one Ray job for each element, with the REST interface of Ray Jobs. Ray starts a
// job when the CPUs that it asks for are free, and runs it once. A job that waits for CPUs for 15
// minutes fails, so there are no more elements than run at the same time.
func submitRay(ctx context.Context, s *Submission, o SubmitOptions) error {
	base := strings.TrimSuffix(cmp.Or(o.Address, os.Getenv("RAY_ADDRESS"), rayAddress), "/")
	if u, err := url.Parse(base); err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return &run.OptionError{Option: "address", Err: fmt.Errorf("address %s of Ray: expected the address of the dashboard, such as %s", base, rayAddress)}
	}
	request := map[string]any{
		"entrypoint_num_cpus": 1,
		// Ray gives a stopped job 3 s by default.
		"runtime_env": map[string]any{"env_vars": map[string]string{"RAY_JOB_STOP_WAIT_TIME_S": strconv.Itoa(saveSeconds)}},
	}
	for _, option := range o.Options {
		name, text, ok := strings.Cut(strings.TrimLeft(option, "-"), "=")
		if !ok {
			return &run.OptionError{Option: "engine", Err: fmt.Errorf("option %q of Ray: expected NAME=VALUE, such as entrypoint_num_gpus=1", option)}
		}
		var value any = text
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		request[name] = value
	}
	s.Elements = min(s.Elements, cmp.Or(o.Concurrency, defaultParallelism))
	client := &http.Client{Timeout: time.Minute}
	for k := range s.Elements {
		words := []string{"exec", shell.Quote(o.Program)}
		for _, word := range s.arguments(o, strconv.Itoa(k)) {
			words = append(words, shell.Quote(word))
		}
		log := shell.Quote(filepath.Join(s.Folder, strconv.Itoa(k)+".log"))
		request["entrypoint"] = strings.Join(words, " ") + " >>" + log + " 2>&1"
		request["submission_id"] = fmt.Sprintf("%s-%d", s.name, k)
		id, err := postRay(ctx, client, base+"/api/jobs/", request)
		if err != nil {
			return fmt.Errorf("submitting element %d of %d to Ray: %w", k, s.Elements, err)
		}
		s.IDs = append(s.IDs, id)
	}
	return nil
}

// maxAnswer limits the answer of the dashboard that is read, in bytes.
const maxAnswer = 1 << 20

// postRay submits a job and returns its submission ID.
func postRay(ctx context.Context, client *http.Client, address string, request map[string]any) (string, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		return "", fmt.Errorf("%w; the dashboard of Ray must run there; give its address, or set RAY_ADDRESS", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return "", err
	}
	if answer.StatusCode != http.StatusOK {
		// The answer is a traceback of Python, which ends with the error.
		return "", fmt.Errorf("the dashboard answers %d: %.300s", answer.StatusCode, lastLine(string(text)))
	}
	var made struct {
		ID string `json:"submission_id"`
	}
	if json.Unmarshal(text, &made) != nil || made.ID == "" {
		return "", errors.New("the answer of the dashboard has no submission_id; Ray Jobs of version 2 is needed")
	}
	return made.ID, nil
}
