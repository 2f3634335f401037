// This module drives a browser for tests, so that the module of spt needs no code for browsers.
module github.com/sptune/spt/internal/browsertest

go 1.26.5

require (
	github.com/chromedp/cdproto v0.160.1
	github.com/chromedp/chromedp v0.23.1
	github.com/sptune/spt v0.0.0
)

require github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect

replace github.com/sptune/spt => ../..
