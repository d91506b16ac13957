/* Kernels for processors with AVX-512 and AMX, built on first use; inkwash/nn/native.py says what each computes. */
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/syscall.h>

typedef uint16_t bf16;
typedef struct { uint8_t palette, start, zero[14]; uint16_t colsb[16]; uint8_t rows[16]; } Config;

/* Asks the kernel for the AMX state; 0 when granted. */
int inkwash_amx(void) { return (int)syscall(SYS_arch_prctl, 0x1023, 18); }

static void configure(int k) {
    Config c;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (int t = 0; t < 4; t++) { c.rows[t] = 16; c.colsb[t] = 64; }               /* sums: 16 x 16 float */
    for (int t = 4; t < 6; t++) { c.rows[t] = 16; c.colsb[t] = (uint16_t)(2 * k); } /* left: 16 x k */
    for (int t = 6; t < 8; t++) { c.rows[t] = (uint8_t)(k / 2); c.colsb[t] = 64; }  /* right: k / 2 pairs x 16 */
    _tile_loadconfig(&c);
}

/* Two rows of 16 numbers -> 16 pairs. */
static inline __m512i pairs(const bf16 *a, const bf16 *b) {
    __m512i lo = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)a));
    __m512i hi = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)b));
    return _mm512_or_si512(lo, _mm512_slli_epi32(hi, 16));
}

static inline void transpose16(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) { t[2*i] = _mm512_unpacklo_epi32(r[2*i], r[2*i+1]); t[2*i+1] = _mm512_unpackhi_epi32(r[2*i], r[2*i+1]); }
    for (int i = 0; i < 4; i++) {
        r[4*i] = _mm512_unpacklo_epi64(t[4*i], t[4*i+2]); r[4*i+1] = _mm512_unpackhi_epi64(t[4*i], t[4*i+2]);
        r[4*i+2] = _mm512_unpacklo_epi64(t[4*i+1], t[4*i+3]); r[4*i+3] = _mm512_unpackhi_epi64(t[4*i+1], t[4*i+3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i+4], 0x88); t[i+4] = _mm512_shuffle_i32x4(r[i], r[i+4], 0xdd);
        t[i+8] = _mm512_shuffle_i32x4(r[i+8], r[i+12], 0x88); t[i+12] = _mm512_shuffle_i32x4(r[i+8], r[i+12], 0xdd);
    }
    for (int i = 0; i < 8; i++) { r[i] = _mm512_shuffle_i32x4(t[i], t[i+8], 0x88); r[i+8] = _mm512_shuffle_i32x4(t[i], t[i+8], 0xdd); }
}

/* e^x to 1e-6. */
static inline __m512 expf16(__m512 x) {
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), n = _mm512_roundscale_ps(t, 0), f = _mm512_sub_ps(t, n);
    __m512 p = _mm512_set1_ps(1.8775767e-3f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(8.9893397e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5826318e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4015361e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9315308e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9999994e-1f));
    return _mm512_scalef_ps(p, n);
}

static inline __m512 sigmoid16(__m512 x) {
    __m512 d = _mm512_add_ps(_mm512_set1_ps(1), expf16(_mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), x), _mm512_set1_ps(80))));
    __m512 r = _mm512_rcp14_ps(d);
    return _mm512_mul_ps(r, _mm512_fnmadd_ps(d, r, _mm512_set1_ps(2)));
}

static inline __mmask16 part(long c, long end) { return end - c >= 16 ? 0xffff : (__mmask16)((1u << (end - c)) - 1); }

static inline __m512 load16(const bf16 *p, __mmask16 m) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16));
}

static inline void store16(bf16 *p, __mmask16 m, __m512 x) { _mm256_mask_storeu_epi16(p, m, (__m256i)_mm512_cvtneps_pbh(x)); }

/* The row as float in `f`; its mean and 1 / sqrt(var + eps). */
static inline void moments(const bf16 *x, long c, float eps, float *f, float *mean, float *rstd) {
    __m512 s = _mm512_setzero_ps(), q = s;
    for (long i = 0; i < c; i += 16) { __m512 a = load16(x + i, part(i, c)); _mm512_storeu_ps(f + i, a); s = _mm512_add_ps(s, a); }
    const __m512 mu = _mm512_set1_ps(*mean = _mm512_reduce_add_ps(s) / c);
    for (long i = 0; i < c; i += 16) { __m512 a = _mm512_maskz_sub_ps(part(i, c), _mm512_loadu_ps(f + i), mu); q = _mm512_fmadd_ps(a, a, q); }
    *rstd = 1.0f / __builtin_sqrtf(_mm512_reduce_add_ps(q) / c + eps);
}

/* y = act(n (1 + scale) + shift), n the normalised row of x (rows, c); film (samples, 2 c) is scale and shift, or NULL; act 1 is SiLU. */
void inkwash_norm(const bf16 *x, const bf16 *film, bf16 *y, long rows, long per, long c, float eps, long act) {
    #pragma omp parallel
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
}

/* Backward of inkwash_norm: dx (rows, c) = its gradient + extra (NULL for 0); dfilm (samples, 2 c) float, or NULL as film. */
void inkwash_norm_back(const bf16 *dy, const bf16 *x, const bf16 *film, const bf16 *extra, bf16 *dx, float *dfilm,
                       long rows, long per, long c, float eps, long act) {
    #pragma omp parallel for
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
}

/* sum (c) of the rows of x (rows, c) of which each has stride s. */
void inkwash_colsum(const bf16 *x, float *sum, long rows, long c, long s) {
    #pragma omp parallel for
    for (long i = 0; i < c; i += 64) {
        __m512 a[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (long r = 0; r < rows; r++)
            for (int j = 0; j < 4; j++) if (i + 16 * j < c) a[j] = _mm512_add_ps(a[j], load16(x + r * s + i + 16 * j, part(i + 16 * j, c)));
        for (int j = 0; j < 4; j++) if (i + 16 * j < c) _mm512_mask_storeu_ps(sum + i + 16 * j, part(i + 16 * j, c), a[j]);
    }
}

/* dw[o][ty][tx][i] (float) = sum over b, y, x of g[b][y][x][o] * x[b][y + ty - taps/2][x + tx - taps/2][i].
   in, ins: channels and pixel stride; ci, co multiples of 16; h*w a multiple of 16; w even. 0 when done, 1 when there is no memory. */
int inkwash_wgrad(const bf16 *in, const bf16 *g, float *dw, long batch, long h, long w, long ci, long co, long taps, long ins, long gs) {
    const long half = taps / 2, hp = h + 2 * half, pr = w / 2, nci = ci / 16, nco = co / 16, pix = h * w;
    const int k = pix % 32 == 0 ? 32 : 16;
    const long steps = pix / k, vrow = hp * pr * 32 + 32, grow = steps * 16 * k + 32, gimg = nco * grow;       /* odd numbers of lines, against cache aliasing */
    long group = 300000 / (2 * (taps * nci * vrow + gimg));
    if (group < 512 / pix) group = 512 / pix;                                           /* long sums, since each group reads and writes dw */
    if (group < 1) group = 1;
    if (group > batch) group = batch;
    const size_t vimg = (size_t)(taps * nci * vrow);
    bf16 *v = aligned_alloc(64, ((size_t)group * vimg * 2 + 63) / 64 * 64), *gt = aligned_alloc(64, ((size_t)group * gimg * 2 + 63) / 64 * 64);
    if (!v || !gt) { free(v); free(gt); return 1; }
    const long bco = (nco + 1) / 2, bci = (nci + 1) / 2, blocks = bco * taps * taps * bci, ld = taps * taps * ci;
    memset(v, 0, (size_t)group * vimg * 2);                                             /* the borders stay zero */
    #pragma omp parallel
    {
        configure(k);
        for (long first = 0; first < batch; first += group) {
            const long n = batch - first < group ? batch - first : group;
            #pragma omp for collapse(2)
            for (long b = 0; b < n; b++)
                for (long y = 0; y < h; y++)
                    for (long dx = 0; dx < taps; dx++)
                        for (long p = 0; p < pr; p++) {
                            const long x0 = 2 * p + dx - half, x1 = x0 + 1;
                            const bf16 *row = in + ((first + b) * pix + y * w) * ins;
                            for (long c = 0; c < nci; c++) {
                                static const bf16 none[16];
                                const bf16 *a = x0 >= 0 && x0 < w ? row + x0 * ins + c * 16 : none;
                                const bf16 *z = x1 >= 0 && x1 < w ? row + x1 * ins + c * 16 : none;
                                _mm512_store_si512(v + b * vimg + (dx * nci + c) * vrow + ((y + half) * pr + p) * 32, pairs(a, z));
                            }
                        }
            #pragma omp for collapse(2)
            for (long b = 0; b < n; b++)
                for (long s = 0; s < steps; s++)
                    for (long o = 0; o < nco; o++) {
                        const bf16 *from = g + ((first + b) * pix + s * k) * gs + o * 16;
                        bf16 *to = gt + b * gimg + o * grow + s * 16 * k;
                        __m512i r[16];
                        for (int i = 0; i < 16; i++) r[i] = i < k / 2 ? pairs(from + 2 * i * gs, from + (2 * i + 1) * gs) : _mm512_setzero_si512();
                        transpose16(r);
                        for (int i = 0; i < 16; i++)
                            if (k == 32) _mm512_store_si512(to + i * 32, r[i]);
                            else _mm256_store_si256((void *)(to + i * 16), _mm512_castsi512_si256(r[i]));
                    }
            #pragma omp for schedule(static)
            for (long block = 0; block < blocks; block++) {
                const long dy = block % taps, o = block / taps % bco * 2, c = block / (taps * bco) % bci * 2, dx = block / (taps * bco * bci), tap = dy * taps + dx;
                const int two_o = o + 1 < nco, two_c = c + 1 < nci;
                float *out = dw + o * 16 * ld + tap * ci + c * 16;
                if (first) {
                    _tile_loadd(0, out, ld * 4);
                    if (two_c) _tile_loadd(1, out + 16, ld * 4);
                    if (two_o) _tile_loadd(2, out + 16 * ld, ld * 4);
                    if (two_o && two_c) _tile_loadd(3, out + 16 * ld + 16, ld * 4);
                } else { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }
                for (long b = 0; b < n; b++) {
                    const bf16 *left = gt + b * gimg + o * grow, *right = v + b * vimg + (dx * nci + c) * vrow + dy * pr * 32;
                    const long lo = two_o ? grow : 0, rc = two_c ? vrow : 0;
                    if (two_o && two_c)
                        for (long s = 0; s < steps; s++) {
                            _tile_loadd(4, left + s * 16 * k, 2 * k);
                            _tile_loadd(6, right + s * k * 16, 64);
                            _tile_loadd(7, right + rc + s * k * 16, 64);
                            _tile_dpbf16ps(0, 4, 6);
                            _tile_loadd(5, left + lo + s * 16 * k, 2 * k);
                            _tile_dpbf16ps(1, 4, 7);
                            _tile_dpbf16ps(2, 5, 6);
                            _tile_dpbf16ps(3, 5, 7);
                        }
                    else
                        for (long s = 0; s < steps; s++) {
                            _tile_loadd(4, left + s * 16 * k, 2 * k);
                            _tile_loadd(6, right + s * k * 16, 64);
                            _tile_dpbf16ps(0, 4, 6);
                            if (two_c) { _tile_loadd(7, right + rc + s * k * 16, 64); _tile_dpbf16ps(1, 4, 7); }
                            if (two_o) { _tile_loadd(5, left + lo + s * 16 * k, 2 * k); _tile_dpbf16ps(2, 5, 6); }
                        }
                }
                _tile_stored(0, out, ld * 4);
                if (two_c) _tile_stored(1, out + 16, ld * 4);
                if (two_o) _tile_stored(2, out + 16 * ld, ld * 4);
                if (two_o && two_c) _tile_stored(3, out + 16 * ld + 16, ld * 4);
            }
        }
        _tile_release();
    }
    free(v);
    free(gt);
    return 0;
}


static inline long up(long n, long m) { return (n + m - 1) / m * m; }

/* Left operand, copied: rows of `from` (m, k) with stride s -> to (m16, k32), zero padded. */
static void left(const bf16 *from, long s, long m, long k, bf16 *to) {
    const long kp = up(k, 32);
    memset(to, 0, (size_t)(up(m, 16) * kp * 2));
    for (long i = 0; i < m; i++) memcpy(to + i * kp, from + i * s, (size_t)k * 2);
}

/* Left operand, transposed: from (k, m) with stride s -> to (m16, k32), zero padded. */
static void left_t(const bf16 *from, long s, long k, long m, bf16 *to) {
    const long kp = up(k, 32);
    static const bf16 none[16];
    for (long i = 0; i < m; i += 16)
        for (long j = 0; j < kp; j += 32) {
            __m512i r[16];
            for (int t = 0; t < 16; t++) r[t] = pairs(j + 2 * t < k ? from + (j + 2 * t) * s + i : none, j + 2 * t + 1 < k ? from + (j + 2 * t + 1) * s + i : none);
            transpose16(r);
            for (int t = 0; t < 16; t++) _mm512_storeu_si512(to + (i + t) * kp + j, r[t]);
        }
}

/* Right operand: from (k, n) with stride s -> to [n16 / 16][k32 / 2][16] pairs, zero padded. */
static void right(const bf16 *from, long s, long k, long n, bf16 *to) {
    const long kp = up(k, 32);
    for (long c = 0; c < n; c += 16) {
        const __mmask16 m = part(c, n);
        for (long p = 0; p < kp / 2; p++) {
            __m256i a = 2 * p < k ? _mm256_maskz_loadu_epi16(m, from + 2 * p * s + c) : _mm256_setzero_si256();
            __m256i b = 2 * p + 1 < k ? _mm256_maskz_loadu_epi16(m, from + (2 * p + 1) * s + c) : _mm256_setzero_si256();
            _mm512_storeu_si512(to + (c / 16 * kp / 2 + p) * 32,
                                _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16)));
        }
    }
}

/* Right operand, transposed: from (n, k) with stride s -> to [n16 / 16][k32 / 2][16] pairs, zero padded. */
static void right_t(const bf16 *from, long s, long n, long k, bf16 *to) {
    const long kp = up(k, 32);
    for (long c = 0; c < n; c += 16)
        for (long j = 0; j < kp; j += 32) {
            const __mmask32 m = k - j >= 32 ? 0xffffffffu : (1u << (k - j)) - 1;
            __m512i r[16];
            for (int t = 0; t < 16; t++) r[t] = c + t < n ? _mm512_maskz_loadu_epi16(m, from + (c + t) * s + j) : _mm512_setzero_si512();
            transpose16(r);
            for (int t = 0; t < 16; t++) _mm512_storeu_si512(to + (c / 16 * kp / 2 + j / 2 + t) * 32, r[t]);
        }
}

/* out (m16, n16) float = l (m16, k32) r; tiles as configured for k = 32. */
static void multiply(const bf16 *l, const bf16 *r, float *out, long m, long n, long k) {
    const long kp = up(k, 32), np = up(n, 16), mp = up(m, 16);
    for (long i = 0; i < mp; i += 32)
        for (long j = 0; j < np; j += 32) {
            const int two_i = i + 16 < mp, two_j = j + 16 < np;
            _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
            for (long s = 0; s < kp; s += 32) {
                _tile_loadd(4, l + i * kp + s, kp * 2);
                _tile_loadd(6, r + (j / 16 * kp / 2 + s / 2) * 32, 64);
                _tile_dpbf16ps(0, 4, 6);
                if (two_j) { _tile_loadd(7, r + ((j / 16 + 1) * kp / 2 + s / 2) * 32, 64); _tile_dpbf16ps(1, 4, 7); }
                if (two_i) { _tile_loadd(5, l + (i + 16) * kp + s, kp * 2); _tile_dpbf16ps(2, 5, 6); }
                if (two_i && two_j) _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, out + i * np + j, np * 4);
            if (two_j) _tile_stored(1, out + i * np + j + 16, np * 4);
            if (two_i) _tile_stored(2, out + (i + 16) * np + j, np * 4);
            if (two_i && two_j) _tile_stored(3, out + (i + 16) * np + j + 16, np * 4);
        }
}

static void save(const float *from, long ld, bf16 *to, long s, long m, long n) {
    for (long i = 0; i < m; i++)
        for (long j = 0; j < n; j += 16) store16(to + i * s + j, part(j, n), _mm512_loadu_ps(from + i * ld + j));
}

/* Rows of scores (t, l16) -> weights in place, 0 where bias is -inf. */
static void softmax(float *p, const float *bias, long t, long l, float scale) {
    const long lp = up(l, 16);
    for (long i = 0; i < t; i++) {
        float *row = p + i * lp;
        __m512 top = _mm512_set1_ps(-1e30f), sum = _mm512_setzero_ps();
        for (long j = 0; j < lp; j += 16) {
            const __m512 a = _mm512_fmadd_ps(_mm512_loadu_ps(row + j), _mm512_set1_ps(scale), _mm512_loadu_ps(bias + j));
            _mm512_storeu_ps(row + j, a);
            top = _mm512_max_ps(top, a);
        }
        const __m512 high = _mm512_set1_ps(_mm512_reduce_max_ps(top));
        for (long j = 0; j < lp; j += 16) {
            const __mmask16 here = _mm512_cmp_ps_mask(_mm512_loadu_ps(bias + j), _mm512_set1_ps(-1e29f), _CMP_GT_OQ);
            const __m512 a = _mm512_maskz_mov_ps(here, expf16(_mm512_max_ps(_mm512_sub_ps(_mm512_loadu_ps(row + j), high), _mm512_set1_ps(-80))));
            _mm512_storeu_ps(row + j, a);
            sum = _mm512_add_ps(sum, a);
        }
        const float total = _mm512_reduce_add_ps(sum);
        const __m512 share = _mm512_set1_ps(total > 0 ? 1 / total : 0);
        for (long j = 0; j < lp; j += 16) _mm512_storeu_ps(row + j, _mm512_mul_ps(_mm512_loadu_ps(row + j), share));
    }
}

/* o = softmax(q k^T scale + mask) v for heads side by side in the channels: q, o (batch, t, heads d), k, v (batch, l, heads d) with strides qs, ks
   of a position; mask (batch, l) bytes, 1 for keys that exist, or NULL. With dy: dq, dk, dv instead, laid out as q, k, v. 1: no memory. */
int inkwash_attend(const bf16 *q, const bf16 *k, const bf16 *v, const uint8_t *mask, bf16 *o, const bf16 *dy, bf16 *dq, bf16 *dk, bf16 *dv,
                   long batch, long heads, long t, long l, long d, long qs, long ks, float scale) {
    const long tp = up(t, 32), lp = up(l, 32), dp = up(d, 32), big = tp > lp ? tp : lp, side = big > dp ? big : dp;
    int failed = 0;
    #pragma omp parallel
    {
        const size_t half = (size_t)(big * side), size = half * 2 * 4 + half * 4 * 2 + (size_t)lp * 4;
        uint8_t *memory = aligned_alloc(64, (size + 63) / 64 * 64);
        if (!memory) {
            #pragma omp atomic write
            failed = 1;
        }
        configure(32);
        #pragma omp for collapse(2)
        for (long b = 0; b < batch; b++)
            for (long h = 0; h < heads; h++) {
                if (!memory) continue;
                float *p = (float *)memory, *x = p + half, *bias = x + half;
                bf16 *a = (bf16 *)(bias + lp), *r = a + half, *w = r + half, *z = w + half;
                const long l16 = up(l, 16), d16 = up(d, 16);
                const bf16 *qh = q + b * t * qs + h * d, *kh = k + b * l * ks + h * d, *vh = v + b * l * ks + h * d;
                for (long j = 0; j < l16; j++) bias[j] = j < l && (!mask || mask[b * l + j]) ? 0 : -1e30f;
                left(qh, qs, t, d, a);
                right_t(kh, ks, l, d, r);
                multiply(a, r, p, t, l, d);
                softmax(p, bias, t, l, scale);
                memset(w, 0, (size_t)(tp * lp * 2));
                save(p, l16, w, lp, t, l);                                              /* weights (t, l32) */
                if (!dy) {
                    right(vh, ks, l, d, r);
                    multiply(w, r, x, t, d, l);
                    save(x, d16, o + b * t * heads * d + h * d, heads * d, t, d);
                    continue;
                }
                const bf16 *gh = dy + b * t * heads * d + h * d;
                left_t(w, lp, t, l16, a);
                right(gh, heads * d, t, d, r);
                multiply(a, r, x, l, d, t);
                save(x, d16, dv + b * l * ks + h * d, ks, l, d);
                left(gh, heads * d, t, d, a);
                right_t(vh, ks, l, d, r);
                multiply(a, r, x, t, l, d);                                             /* gradient of the weights (t, l16) */
                for (long i = 0; i < t; i++) {
                    __m512 s = _mm512_setzero_ps();
                    for (long j = 0; j < l16; j += 16) s = _mm512_fmadd_ps(_mm512_loadu_ps(p + i * l16 + j), _mm512_loadu_ps(x + i * l16 + j), s);
                    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(s));
                    for (long j = 0; j < l16; j += 16) {
                        const __m512 g = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i * l16 + j), mean), _mm512_loadu_ps(p + i * l16 + j));
                        store16(z + i * lp + j, 0xffff, _mm512_mul_ps(g, _mm512_set1_ps(scale)));
                    }
                    if (l16 < lp) memset(z + i * lp + l16, 0, (size_t)(lp - l16) * 2);
                }
                for (long i = t; i < up(t, 16); i++) memset(z + i * lp, 0, (size_t)lp * 2);
                right(kh, ks, l, d, r);
                multiply(z, r, x, t, d, l);
                save(x, d16, dq + b * t * qs + h * d, qs, t, d);
                left_t(z, lp, t, l16, a);
                right(qh, qs, t, d, r);
                multiply(a, r, x, l, d, t);
                save(x, d16, dk + b * l * ks + h * d, ks, l, d);
            }
        _tile_release();
        free(memory);
    }
    return failed;
}
