#include "tests/fault/lab.h"

#include <stdlib.h>
#include <string.h>

#define SET           6
#define SETTLE_ROUNDS 600
#define LONG_MS       20

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct lab *lab = arg;

    lab->source = levee_queue_source(ctx, "sender", 2);
    levee_stream *s =
        levee_reduce_by_key(levee_flat_map(lab->source, lab->function, lab), &levee_sum_i64);
    s = levee_update_state_by_key(s, "totals", NULL, levee_update_sum_i64, NULL);
    levee_file_sink(s, "out",
                    &(struct levee_file_sink_options){.path = LAB_OUT, .value = LEVEE_VALUE_I64});
    return levee_context_status(ctx, err);
}

static void listen(void *arg, int level, const char *line)
{
    struct lab *lab = arg;

    if (level > 0) {
        (void)snprintf(lab->said, sizeof lab->said, "%s", line);
    }
}

void lab_open(struct lab *lab, uint64_t seed)
{
    *lab = (struct lab){.seed = seed, .fold.seed = seed, .function = job_to_pairs};
    ck_assert_int_eq(levee_sim_new(&lab->sim, &(struct levee_sim_options){.seed = seed}, &lab->err),
                     LEVEE_OK);
    lab->io = lab->sim->io;
    lab->options = (struct levee_options){.directory = LAB_DIR,
                                          .batch_interval_ms = 10,
                                          .segment_bytes = 64 << 10,
                                          .checkpoint_batches = 2,
                                          .workers = 1,
                                          .partitions = 2,
                                          .guarantee = LEVEE_EXACTLY_ONCE,
                                          .program_id = "lab",
                                          .log = listen,
                                          .log_arg = lab,
                                          .testing = lab->sim};
}

static void end_life(struct lab *lab)
{
    levee_free(lab->ctx);
    lab->ctx = NULL;
    lab->source = NULL;
}

void lab_close(struct lab *lab)
{
    end_life(lab);
    levee_sim_free(lab->sim);
    ck_assert_int_eq(mem_live(), 0);
}

static bool broken(struct lab *lab, const char *fmt, ...) PRINTF(2, 3);
static bool broken(struct lab *lab, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(lab->why, sizeof lab->why, fmt, ap);
    va_end(ap);
    return false;
}

/* ---- lives ---- */

int lab_start(struct lab *lab)
{
    int code = levee_get_or_create(&lab->ctx, &lab->options, build, lab, &lab->err);

    code = code ? code : levee_start(lab->ctx, &lab->err);
    if (code) {
        end_life(lab);
        return code;
    }
    lab->context = lab->ctx->dir.context;
    lab->pushed = levee_queue_durable(lab->source);
    return LEVEE_OK;
}

static const char *error_text(struct lab *lab)
{
    static char line[1400];

    return levee_error_format(&lab->err, line, sizeof line);
}

void lab_must_start(struct lab *lab)
{
    ck_assert_msg(lab_start(lab) == LEVEE_OK, "seed %llu: %s", (unsigned long long)lab->seed,
                  error_text(lab));
}

bool lab_stopped(struct lab *lab)
{
    if (!lab->ctx || atomic_load(&lab->ctx->life) != RT_STOPPED) {
        return false;
    }
    (void)levee_await(lab->ctx, &lab->err);
    return true;
}

static void note_acks(struct lab *lab)
{
    uint64_t durable = lab->ctx ? levee_queue_durable(lab->source) : 0;

    lab->acked = durable > lab->acked ? durable : lab->acked;
}

static bool push_set(struct lab *lab, uint64_t n)
{
    static char text[SET][JOB_TEXT_MAX];
    struct levee_record records[SET];

    for (uint64_t i = 0; i < n; i++) {
        size_t len = job_text(lab->seed, lab->pushed + 1 + i, text[i]);
        records[i] = (struct levee_record){.value = slice_of(text[i], len)};
    }
    if (levee_queue_push(lab->source, records, n, lab->pushed + 1, &lab->err) != LEVEE_OK) {
        /* Part of the set may be in. */
        lab->sent = lab->pushed + n > lab->sent ? lab->pushed + n : lab->sent;
        return false;
    }
    lab->pushed += n;
    lab->sent = lab->pushed > lab->sent ? lab->pushed : lab->sent;
    return true;
}

void lab_send(struct lab *lab, uint64_t n)
{
    uint64_t target = lab->pushed + n;

    for (unsigned round = 0; round < SETTLE_ROUNDS && lab->pushed < target; round++) {
        uint64_t left = target - lab->pushed;
        if (levee_sim_crashed(lab->sim) || lab_stopped(lab)) {
            return;
        }
        (void)push_set(lab, left < SET ? left : SET);
        levee_sim_run_ms(lab->sim, 3 + (lab->pushed * 7 + lab->seed) % 15);
        note_acks(lab);
    }
}

static bool read_output(struct lab *lab)
{
    struct io_list list = {0};
    bool fine = true;

    lab->fold = (struct job_fold){.seed = lab->seed};
    if (lab->io->ops->list(lab->io, LAB_OUT, &list, NULL) != LEVEE_OK) {
        return true; /* nothing published yet */
    }
    for (size_t i = 0; fine && i < list.count; i++) {
        const char *name = list.items[i].name;
        char path[IO_PATH_MAX];
        uint64_t size = 0;
        if (strncmp(name, "batch-", 6) != 0 || io_is_temp(name)) {
            continue;
        }
        (void)io_path(path, LAB_OUT, name, NULL);
        const uint8_t *bytes = io_sim_bytes(lab->io, path, &size);
        fine = bytes && job_judge(&lab->fold, strtoull(name + 6, NULL, 10), (const char *)bytes,
                                  (size_t)size, lab->sent, lab->why);
    }
    io_list_free(&list);
    return fine;
}

bool lab_settle(struct lab *lab)
{
    for (unsigned round = 0; round < SETTLE_ROUNDS; round++) {
        if (levee_sim_crashed(lab->sim) || lab_stopped(lab)) {
            return false;
        }
        levee_sim_run_ms(lab->sim, LONG_MS);
        note_acks(lab);
        if (levee_queue_durable(lab->source) == lab->pushed && read_output(lab) &&
            lab->fold.records == lab->pushed) {
            return true;
        }
    }
    return broken(lab, "not settled: pushed %llu, durable %llu, published %llu",
                  (unsigned long long)lab->pushed, (unsigned long long)lab->acked,
                  (unsigned long long)lab->fold.records);
}

int lab_drain(struct lab *lab)
{
    int code = levee_drain(lab->ctx, 0, &lab->err);

    code = code ? code : levee_await(lab->ctx, &lab->err);
    note_acks(lab);
    end_life(lab);
    return code;
}

void lab_kill(struct lab *lab)
{
    note_acks(lab);
    io_sim_crash(lab->io); /* the end of a context must not write any more */
    end_life(lab);
    levee_sim_kill(lab->sim);
}

void lab_power_loss(struct lab *lab)
{
    note_acks(lab);
    io_sim_crash(lab->io);
    end_life(lab);
    levee_sim_power_loss(lab->sim);
}

void lab_faults(struct lab *lab, struct sim_faults faults)
{
    faults.seed = faults.seed ? faults.seed : lab->seed;
    io_sim_set_faults(lab->io, &faults);
}

/* ---- judging ---- */

bool lab_fine(struct lab *lab)
{
    if (lab->ctx && levee_queue_durable(lab->source) < lab->acked) {
        return broken(lab, "record %llu was acknowledged, %llu are left",
                      (unsigned long long)lab->acked,
                      (unsigned long long)levee_queue_durable(lab->source));
    }
    return read_output(lab);
}

bool lab_finish(struct lab *lab)
{
    lab_faults(lab, (struct sim_faults){0});
    int code = lab->ctx ? LEVEE_OK : lab_start(lab);
    if (code) {
        return broken(lab, "the last start: %s", error_text(lab));
    }
    if (!lab_fine(lab)) {
        return false;
    }
    lab_send(lab, (lab->sent > lab->pushed ? lab->sent - lab->pushed : 0) + 2 * SET);
    if (!lab_settle(lab)) {
        return lab_stopped(lab) ? broken(lab, "stopped: %s", error_text(lab)) : false;
    }
    code = lab_drain(lab);
    if (code) {
        return broken(lab, "the drain: %s", error_text(lab));
    }
    return read_output(lab) &&
           (lab->fold.records == lab->sent ||
            broken(lab, "%llu sent, %llu published", (unsigned long long)lab->sent,
                   (unsigned long long)lab->fold.records));
}

void lab_must_finish(struct lab *lab)
{
    ck_assert_msg(lab_finish(lab), "seed %llu: %s", (unsigned long long)lab->seed, lab->why);
}

void lab_must_refuse(struct lab *lab, int code, const char *where)
{
    uint64_t before = lab_hash(lab);
    int found = lab_start(lab);

    ck_assert_msg(found == code, "seed %llu: started with %s (%s), expected %s",
                  (unsigned long long)lab->seed, levee_error_name(found),
                  found ? error_text(lab) : "ok", levee_error_name(code));
    ck_assert_msg(!where || strstr(error_text(lab), where), "\"%s\" does not name %s",
                  error_text(lab), where);
    ck_assert_msg(lab_hash(lab) == before, "a refusal has changed the disk: %s", error_text(lab));
}

/* ---- the disk ---- */

void lab_scan(struct lab *lab, struct wal_facts *ret)
{
    ck_assert_int_eq(wal_scan(lab->io, LAB_WAL, &lab->context, 0, ret, &lab->err), LEVEE_OK);
}

uint8_t *lab_bytes(struct lab *lab, const char *path, uint64_t *ret_size)
{
    uint8_t *bytes = io_sim_bytes(lab->io, path, ret_size);

    ck_assert_msg(bytes != NULL, "no file %s", path);
    return bytes;
}

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);

    return n >= m && strcmp(name + n - m, suffix) == 0;
}

size_t lab_file_count(struct lab *lab, const char *folder, const char *suffix)
{
    struct io_list list = {0};
    size_t n = 0;

    if (lab->io->ops->list(lab->io, folder, &list, NULL) != LEVEE_OK) {
        return 0;
    }
    for (size_t i = 0; i < list.count; i++) {
        n += ends_with(list.items[i].name, suffix);
    }
    io_list_free(&list);
    return n;
}

const char *lab_file(struct lab *lab, const char *folder, const char *suffix, int index)
{
    static char paths[4][IO_PATH_MAX];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    struct io_list list = {0};
    int count = (int)lab_file_count(lab, folder, suffix), n = 0;
    int wanted = index < 0 ? count + index : index;

    ck_assert_msg(wanted >= 0 && wanted < count, "%s has %d files *%s", folder, count, suffix);
    ck_assert_int_eq(lab->io->ops->list(lab->io, folder, &list, &lab->err), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        if (ends_with(list.items[i].name, suffix) && n++ == wanted) {
            ck_assert_int_eq(io_path(path, folder, list.items[i].name, &lab->err), LEVEE_OK);
        }
    }
    io_list_free(&list);
    return path;
}

void lab_copy(struct lab *lab, const char *from, const char *to)
{
    struct buf bytes = {0};
    struct io_file *f;

    ck_assert_int_eq(io_read_file(lab->io, from, SIZE_MAX / 4, &bytes, &lab->err), LEVEE_OK);
    ck_assert_int_eq(
        lab->io->ops->open(lab->io, to, IO_WRITE | IO_CREATE | IO_TRUNCATE, &f, &lab->err),
        LEVEE_OK);
    ck_assert_int_eq(
        lab->io->ops->pwritev(f, &(struct iovec){bytes.data, bytes.len}, 1, 0, &lab->err),
        LEVEE_OK);
    ck_assert_int_eq(lab->io->ops->sync(f, &lab->err), LEVEE_OK);
    lab->io->ops->close(f);
    buf_release(&bytes);
}

void lab_remove(struct lab *lab, const char *path)
{
    ck_assert_int_eq(lab->io->ops->unlink(lab->io, path, &lab->err), LEVEE_OK);
}

static uint64_t hash_folder(struct lab *lab, const char *folder, uint64_t hash)
{
    struct io_list list = {0};

    if (lab->io->ops->list(lab->io, folder, &list, NULL) != LEVEE_OK) {
        return hash;
    }
    for (size_t i = 0; i < list.count; i++) {
        char path[IO_PATH_MAX];
        uint64_t size = 0;
        const char *name = list.items[i].name;
        if (strcmp(name, "LOCK") == 0) {
            continue; /* it names the process that tried */
        }
        (void)io_path(path, folder, name, NULL);
        hash = hash64(name, strlen(name), hash);
        const uint8_t *bytes = io_sim_bytes(lab->io, path, &size);
        if (!bytes) {
            hash = hash_folder(lab, path, hash);
        } else {
            hash = hash64(bytes, (size_t)size, hash);
        }
    }
    io_list_free(&list);
    return hash;
}

uint64_t lab_hash(struct lab *lab)
{
    return hash_folder(lab, LAB_OUT, hash_folder(lab, LAB_DIR, 1));
}

void lab_history(struct lab *lab, uint64_t records, bool checkpoints, bool sealed)
{
    if (!checkpoints) {
        lab->options.checkpoint_batches = 0;
        lab->options.checkpoint_ms = 1u << 30;
    }
    lab_must_start(lab);
    lab_send(lab, records);
    ck_assert_msg(lab_settle(lab), "%s", lab->why);
    if (sealed) {
        levee_sim_run_ms(lab->sim, 3000);
    }
    lab_kill(lab);
    ck_assert_msg(lab_fine(lab), "%s", lab->why);
}
