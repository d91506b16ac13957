/* Gradients of weights and biases; weights.py says what is computed. */
#include "common.h"
#include <sys/syscall.h>
#include <unistd.h>

/* Asks the system for the AMX state; 0 when granted. */
int inkwash_amx(void) { return (int)syscall(SYS_arch_prctl, 0x1023, 18); }

/* sum (c) of the rows of x (rows, c) of which each has stride s. */
int inkwash_colsum(const bf16 *x, float *sum, long rows, long c, long s, long threads) {
    #pragma omp parallel for num_threads(threads)
    for (long i = 0; i < c; i += 64) {
        __m512 a[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (long r = 0; r < rows; r++)
            for (int j = 0; j < 4; j++) if (i + 16 * j < c) a[j] = _mm512_add_ps(a[j], load16(x + r * s + i + 16 * j, part(i + 16 * j, c)));
        for (int j = 0; j < 4; j++) if (i + 16 * j < c) _mm512_mask_storeu_ps(sum + i + 16 * j, part(i + 16 * j, c), a[j]);
    }
    return 0;
}

/* dw[o][ty][tx][i] (float) = sum over b, y, x of g[b][y][x][o] * x[b][y + ty - taps/2][x + tx - taps/2][i].
   in, ins: channels and pixel stride; ci, co multiples of 16; h*w a multiple of 16; w even. 0 when done, 1 when there is no memory. */
int inkwash_wgrad(const bf16 *in, const bf16 *g, float *dw, long batch, long h, long w, long ci, long co, long taps, long ins, long gs,
                  long threads) {
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
    #pragma omp parallel num_threads(threads)
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
