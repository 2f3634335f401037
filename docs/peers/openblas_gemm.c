// The rate of OpenBLAS on the products of ViT-B and ViT-Ti, to compare with
// BenchmarkWeight of internal/kernel/gemm.
//
//   apt-get install libopenblas-dev
//   cc -O2 openblas_gemm.c -o openblas_gemm -lopenblas
//   OPENBLAS_NUM_THREADS=2 ./openblas_gemm
//
// Prints, for each product M x K x N with a weight stored N x K as PyTorch
// stores it, the best and the median rate of the calls within half a second.
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static float *numbers(size_t n) {
    float *x = aligned_alloc(64, (n * sizeof *x + 63) / 64 * 64);
    for (size_t i = 0; i < n; i++)
        x[i] = rand() / (float)RAND_MAX - 0.5f;
    return x;
}

int main(void) {
    const int ms[] = {1576, 6304};
    const int kn[][2] = {{768, 768}, {768, 3072}, {3072, 768}, {192, 192}, {192, 576}, {192, 768}, {768, 192}};
    enum { calls = 4096 };
    static double took[calls];
    printf("%s\n", openblas_get_config());
    for (size_t i = 0; i < sizeof ms / sizeof *ms; i++)
        for (size_t j = 0; j < sizeof kn / sizeof *kn; j++) {
            int m = ms[i], k = kn[j][0], n = kn[j][1], done = 0;
            float *a = numbers((size_t)m * k), *w = numbers((size_t)k * n), *c = numbers((size_t)m * n);
            for (double end = now() + 0.5; done < calls && (done < 3 || now() < end); done++) {
                double start = now();
                cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, a, k, w, k, 0, c, n);
                took[done] = now() - start;
            }
            qsort(took, done, sizeof *took, ascending);
            double work = 2e-9 * m * k * n;
            printf("%dx%dx%d\t%.1f GFLOPS best\t%.1f median\n", m, k, n, work / took[0], work / took[done / 2]);
            free(a), free(w), free(c);
        }
    return 0;
}
