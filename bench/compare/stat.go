package compare

import (
	"math"
	"slices"
)

// confidence is what an interval is to reach; few rounds reach less, and say so.
const confidence = 0.95

// Interval is a median with the interval that covers the true one.
type Interval struct {
	Median   float64 `json:"median"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
	Coverage float64 `json:"coverage"` // probability that [Low, High] covers the true median
	N        int     `json:"n"`
}

// Spread is how many times the low end the high end is.
func (i Interval) Spread() float64 {
	if i.Low <= 0 {
		return math.Inf(1)
	}
	return i.High / i.Low
}

// Summarise orders the values; the interval is between two of them, and needs no
// assumption about their distribution: the true median lies below the smallest
// of n values with probability 2^-n.
func Summarise(values []float64) Interval {
	n := len(values)
	if n == 0 {
		return Interval{}
	}
	v := slices.Sorted(slices.Values(values))
	out := Interval{Median: (v[(n-1)/2] + v[n/2]) / 2, Low: v[0], High: v[n-1], N: n}
	out.Coverage = 1 - 2*binomial(n, 0)
	for k := 1; k < (n+1)/2; k++ {
		c := 1 - 2*binomial(n, k)
		if c < confidence {
			break
		}
		out.Low, out.High, out.Coverage = v[k], v[n-1-k], c
	}
	return out
}

// binomial is the probability of at most k heads in n throws.
func binomial(n, k int) float64 {
	p, term := 0.0, math.Pow(0.5, float64(n))
	for i := 0; i <= k; i++ {
		p += term
		term *= float64(n-i) / float64(i+1)
	}
	return p
}
