// Package coef holds the constants of the elementary functions, such as [Exp] and [Log]. The
// generator of the assembly in vector/asm uses them. The portable Go code in package scalar uses
// some of them.
//
// The polynomials and rational functions are minimax fits, made by Lawson's reweighted least
// squares against values with 30 digits. The coefficients are in ascending order of powers and are
// rounded to float32. The numerator and the denominator of a rational function were first scaled by
// the common factor that gives the smallest rounding error.
package coef

// Exp holds the coefficients of a polynomial Exp(r) with e^r = 1 + r + r²·Exp(r) for
// |r| <= ln(2)/2. Then e^x = 2^n·e^r with n = round(x/ln 2) and r = x - n·Ln2Hi - n·Ln2Lo. The
// relative error of the fit is 2^-28.
var Exp = [...]float32{0.49999993, 0.1666652, 0.041668391, 0.0083687451, 0.001381454}

const (
	ExpMin = -104 // e^x rounds to 0 for smaller x
	ExpMax = 89   // e^x is infinite for greater x

	Log2E = 1.44269504088896340735992468100189214
	Ln2Hi = 0.693359375 // 10 bits: n·Ln2Hi is exact for |n| < 2^14
	Ln2Lo = 0.693147180559945309417232121458176568 - Ln2Hi
)

// Log holds the coefficients of a polynomial Log(f) with ln(m·2^e) = e·ln 2 + f - f²/2 + f³·Log(f),
// f = m-1 and sqrt(1/2) <= m < sqrt(2). The relative error of the fit is 2^-30.
var Log = [...]float32{0.333333126, -0.250000096, 0.200021187, -0.166679958, 0.142195523, -0.124055891, 0.118881629, -0.116756512, 0.0674663826}

// Erf holds the coefficients of a polynomial Erf(a). For 0 <= a <= ErfMax, erf(a) = 1 - e^(-z) with
// z = ErfSlope·a + a·Erf(a). For greater a, erf(a) is 1. ErfSlope + Erf[0] is 2/√π with more digits
// than one float32 has. The relative error is 2^-28.
var Erf = [...]float32{-5.3727976e-08, 0.6366193714593215, 0.1027779100744229, -0.01915332643597274, -0.00015995032045444766, 0.0016666105519831992, -0.0006326209667209424, 0.00011758354088403444, -9.250071857465226e-06}

const (
	ErfSlope = 1.12837922573089599609375
	ErfMax   = 3.925 // erf(x) rounds to 1 for greater x
)

// TanhMax is the limit from which tanh(x) rounds to 1.
const TanhMax = 9.011

// TailNum and TailDen hold the coefficients of the Gaussian tail Φ(-a) =
// e^(-a²/2)·TailNum(a)/TailDen(a) for 0 <= a <= TailMax. For greater a, the tail is smaller than
// the smallest float32. The relative error is 2^-26.7.
var (
	TailNum = [...]float32{0.881391167640686, 0.7729744911193848, 0.32326769828796387, 0.07171665132045746, 0.00726941367611289}
	TailDen = [...]float32{1.762782335281372, 2.952446460723877, 2.120847225189209, 0.8282716870307922, 0.17977821826934814, 0.01822151057422161}
)

const (
	TailMax    = 14.5
	InvSqrt2Pi = 0.398942280401432677939946059934381868 // φ(0)

	// The tanh form of GELU uses 2·√(2/π)·x·(1 + GELUCubic·x²).
	GELUCubic      = 0.044715
	TwoSqrtTwoByPi = 1.59576912160573071175978423973752747
)
