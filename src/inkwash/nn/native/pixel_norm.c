/* Norm over the channels of each pixel, modulation and SiLU; pixel_norm.py says what is computed. */
#include "common.h"

/* The row as float in `f`; its mean and 1 / sqrt(var + eps). */
static inline void moments(const bf16 *x, long c, float eps, float *f, float *mean, float *rstd) {
    __m512 s = _mm512_setzero_ps(), q = s;
    for (long i = 0; i < c; i += 16) { __m512 a = load16(x + i, part(i, c)); _mm512_storeu_ps(f + i, a); s = _mm512_add_ps(s, a); }
    const __m512 mu = _mm512_set1_ps(*mean = _mm512_reduce_add_ps(s) / c);
    for (long i = 0; i < c; i += 16) { __m512 a = _mm512_maskz_sub_ps(part(i, c), _mm512_loadu_ps(f + i), mu); q = _mm512_fmadd_ps(a, a, q); }
    *rstd = 1.0f / __builtin_sqrtf(_mm512_reduce_add_ps(q) / c + eps);
}

/* y = act(n (1 + scale) + shift), n the normalised row of x (rows, c); film (samples, 2 c) is scale and shift, or NULL; act 1 is SiLU. */
int inkwash_norm(const bf16 *x, const bf16 *film, bf16 *y, long rows, long per, long c, float eps, long act, long threads) {
    #pragma omp parallel num_threads(threads)
    {
        float f[c + 16];
        #pragma omp for
        for (long r = 0; r < rows; r++) {
            float mean, rstd;
            moments(x + r * c, c, eps, f, &mean, &rstd);
            const bf16 *scale = film + r / per * 2 * c;
            const __m512 mu = _mm512_set1_ps(mean), rs = _mm512_set1_ps(rstd), one = _mm512_set1_ps(1);
            for (long i = 0; i < c; i += 16) {
                const __mmask16 m = part(i, c);
                __m512 u = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(f + i), mu), rs);
                if (film) u = _mm512_fmadd_ps(u, _mm512_add_ps(one, load16(scale + i, m)), load16(scale + c + i, m));
                store16(y + r * c + i, m, act ? _mm512_mul_ps(u, sigmoid16(u)) : u);
            }
        }
    }
    return 0;
}

/* Backward of inkwash_norm: dx (rows, c) = its gradient + extra (NULL for 0); dfilm (samples, 2 c) float, or NULL as film. */
int inkwash_norm_back(const bf16 *dy, const bf16 *x, const bf16 *film, const bf16 *extra, bf16 *dx, float *dfilm,
                       long rows, long per, long c, float eps, long act, long threads) {
    #pragma omp parallel for num_threads(threads)
    for (long sample = 0; sample < rows / per; sample++) {
        const long cs = (c + 15) / 16 * 16;
        float f[cs], dn[cs], ds[cs], dh[cs];
        memset(ds, 0, sizeof ds);
        memset(dh, 0, sizeof dh);
        const bf16 *scale = film + sample * 2 * c;
        for (long r = sample * per; r < (sample + 1) * per; r++) {
            float mean, rstd;
            moments(x + r * c, c, eps, f, &mean, &rstd);
            const __m512 mu = _mm512_set1_ps(mean), rs = _mm512_set1_ps(rstd), one = _mm512_set1_ps(1);
            __m512 sa = _mm512_setzero_ps(), sb = sa;
            for (long i = 0; i < c; i += 16) {
                const __mmask16 m = part(i, c);
                __m512 n = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(f + i), mu), rs), du = load16(dy + r * c + i, m), gain = one, u = n;
                if (film) { gain = _mm512_add_ps(one, load16(scale + i, m)); u = _mm512_fmadd_ps(n, gain, load16(scale + c + i, m)); }
                if (act) {
                    const __m512 s = sigmoid16(u);
                    du = _mm512_mul_ps(_mm512_mul_ps(du, s), _mm512_fmadd_ps(u, _mm512_sub_ps(one, s), one));
                }
                if (film) {
                    _mm512_storeu_ps(ds + i, _mm512_fmadd_ps(du, n, _mm512_loadu_ps(ds + i)));
                    _mm512_storeu_ps(dh + i, _mm512_add_ps(du, _mm512_loadu_ps(dh + i)));
                    du = _mm512_mul_ps(du, gain);
                }
                _mm512_storeu_ps(f + i, n);
                _mm512_storeu_ps(dn + i, du);
                sa = _mm512_add_ps(sa, du);                                             /* masked lanes of dy are 0 */
                sb = _mm512_fmadd_ps(du, n, sb);
            }
            const __m512 a = _mm512_set1_ps(_mm512_reduce_add_ps(sa) / c), b = _mm512_set1_ps(_mm512_reduce_add_ps(sb) / c);
            for (long i = 0; i < c; i += 16) {
                const __mmask16 m = part(i, c);
                __m512 d = _mm512_sub_ps(_mm512_loadu_ps(dn + i), a);
                d = _mm512_mul_ps(_mm512_fnmadd_ps(_mm512_loadu_ps(f + i), b, d), rs);
                if (extra) d = _mm512_add_ps(d, load16(extra + r * c + i, m));
                store16(dx + r * c + i, m, d);
            }
        }
        if (film) {
            memcpy(dfilm + sample * 2 * c, ds, (size_t)c * 4);
            memcpy(dfilm + sample * 2 * c + c, dh, (size_t)c * 4);
        }
    }
    return 0;
}
