package wording

import "testing"

func TestWording(t *testing.T) {
	for got, want := range map[string]string{
		Plural(1, "image"): "1 image", Plural(0, "image"): "0 images", Plural(2000, "image"): "2000 images", Count(1, "image"): "1 image", Count(2000, "image"): "2,000 images",
		Thousands(0): "0", Thousands(999): "999", Thousands(27622): "27,622", Thousands(-1234567): "-1,234,567", Thousands(-999): "-999",
		Matrices(1): "1 matrix", Matrices(3): "3 matrices", Join(nil, "or"): "", Join([]string{"a"}, "or"): "a", Join([]string{"a", "b", "c"}, "and"): "a, b and c",
		Percent(0.935): "93.50%", Bytes(999): "999 bytes", Bytes(155_900): "155.9 kB", Bytes(2_500_000): "2.5 MB",
		Seconds(7.24): "7.2 s", Seconds(284.4): "284 s", Time(7.24): "7.2 s", Time(119): "119 s", Time(600): "10 min", Time(9000): "2.5 h",
	} {
		if got != want {
			t.Errorf("wrote %q, expected %q", got, want)
		}
	}
}
