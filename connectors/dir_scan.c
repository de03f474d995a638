/*
 * Which files there are. Directories are looked through in slices, first in first out, the names of
 * each in order; whatever the pattern wants is looked at (dir_look.c). A directory is watched
 * before it is listed, so that between the two no name is missed. Events name single files
 * afterwards; when the kernel has dropped some, everything is looked at again, as it is every
 * rescan_ms anyway: that finds what no event tells (network file systems, no watches left), and
 * what was replaced.
 *
 * A look costs a stat of each file. The next one waits at least 200 times as long as the last one
 * took, so old files cost half a percent of a processor at most, however many there are.
 */
#include "connectors/dir_internal.h"

#include <fnmatch.h>

#define SLICE      256u /* names of a listing, or events, in one step */
#define SCAN_SHARE 200u
#define DEPTH_MAX  64u

/* ---- names ---- */

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static uint32_t slashes_in(const char *s)
{
    uint32_t n = 0;

    for (; *s; s++) {
        n += *s == '/';
    }
    return n;
}

bool dir_pattern_ok(const char *pattern, bool recursive)
{
    size_t n = strlen(pattern);

    return n > 0 && n < IO_PATH_MAX && pattern[0] != '/' && pattern[n - 1] != '/' &&
           !(recursive && strchr(pattern, '/'));
}

bool dir_wants_file(const struct dir_source *d, const char *path)
{
    const char *base = base_of(path);

    if (io_is_temp(base) && !(d->pattern && io_is_temp(d->pattern))) {
        return false;
    }
    if (!d->pattern) {
        return base[0] != '.';
    }
    return fnmatch(d->pattern, d->slashes ? path : base, FNM_PATHNAME | FNM_PERIOD) == 0;
}

/* The pattern up to the depth of this path, as a pattern. */
bool dir_wants_folder(const struct dir_source *d, const char *path)
{
    char part[IO_PATH_MAX];
    uint32_t depth = slashes_in(path) + 1;
    size_t n = 0;

    if (d->recursive) {
        return base_of(path)[0] != '.' && depth <= DEPTH_MAX;
    }
    if (depth > d->slashes) {
        return false;
    }
    while (depth > 0) {
        depth -= d->pattern[n] == '/';
        n++;
    }
    memcpy(part, d->pattern, n - 1);
    part[n - 1] = 0;
    return fnmatch(part, path, FNM_PATHNAME | FNM_PERIOD) == 0;
}

int dir_full_path(const struct dir_source *d, const char *path, char out[IO_PATH_MAX],
                  struct levee_error *err)
{
    if (!path[0]) {
        memcpy(out, d->path, strlen(d->path) + 1);
        return LEVEE_OK;
    }
    return io_path(out, d->path, path, err);
}

/* folder + "/" + name, below the directory. */
static int join(const char *folder, const char *name, char out[IO_PATH_MAX],
                struct levee_error *err)
{
    if (folder[0]) {
        return io_path(out, folder, name, err);
    }
    size_t n = strlen(name);
    if (n >= IO_PATH_MAX) {
        return err_set(err, LEVEE_ELIMIT, "path too long: %.100s", name);
    }
    memcpy(out, name, n + 1);
    return LEVEE_OK;
}

/* ---- lists of names ---- */

static bool push(char ***items, size_t *count, size_t *cap, const char *path)
{
    char *copy = mem_strdup(path);

    if (!copy || !mem_grow((void **)items, cap, *count + 1, sizeof **items)) {
        mem_free(copy);
        return false;
    }
    (*items)[(*count)++] = copy;
    return true;
}

/* The first name, copied out. The list is emptied when all were taken. */
static bool pop(char **items, size_t *at, size_t *count, char out[IO_PATH_MAX])
{
    if (*at == *count) {
        return false;
    }
    (void)snprintf(out, IO_PATH_MAX, "%s", items[*at]);
    mem_free(items[(*at)++]);
    if (*at == *count) {
        *at = *count = 0;
    }
    return true;
}

static void drop(char ***items, size_t *at, size_t *count, size_t *cap)
{
    for (size_t i = *at; i < *count; i++) {
        mem_free((*items)[i]);
    }
    mem_free(*items);
    *items = NULL;
    *at = *count = *cap = 0;
}

void dir_scan_release(struct dir_source *d)
{
    io_watch_close(d->watch);
    d->watch = NULL;
    for (size_t i = 0; i < d->watched_count; i++) {
        mem_free(d->watched[i].path);
    }
    mem_free(d->watched);
    d->watched = NULL;
    d->watched_count = d->watched_cap = 0;
    drop(&d->queue, &d->queue_at, &d->queue_count, &d->queue_cap);
    drop(&d->told, &d->told_at, &d->told_count, &d->told_cap);
    io_list_free(&d->list);
    d->listing = d->scanning = d->scanned = d->scan_wanted = d->watch_refused = false;
}

static int look_through(struct dir_source *d, const char *path, struct levee_error *err)
{
    return push(&d->queue, &d->queue_count, &d->queue_cap, path) ? LEVEE_OK : err_nomem(err, 64);
}

int dir_scan_tell(struct dir_source *d, const char *path, struct levee_error *err)
{
    return push(&d->told, &d->told_count, &d->told_cap, path) ? LEVEE_OK : err_nomem(err, 64);
}

/* ---- watches ---- */

static struct dir_watched *watched_of(struct dir_source *d, int id)
{
    for (size_t i = 0; i < d->watched_count; i++) {
        if (d->watched[i].id == id) {
            return &d->watched[i];
        }
    }
    return NULL;
}

/* A directory that cannot be watched is only looked at: that is said once. */
static int watch(struct dir_source *d, const char *path, const char *full, struct levee_error *err)
{
    struct levee_error why = {0};
    int id = -1;
    int code = d->watch ? io_watch_add(d->watch, full, &id, &why) : LEVEE_OK;

    if (code && code != LEVEE_ENOTFOUND && !d->watch_refused) {
        d->watch_refused = true;
        levee_inlet_report(d->inlet, &why);
    }
    if (id < 0) {
        return LEVEE_OK;
    }
    struct dir_watched *w = watched_of(d, id);
    char *copy = mem_strdup(path);
    if (!copy || (!w && !mem_grow((void **)&d->watched, &d->watched_cap, d->watched_count + 1,
                                  sizeof *d->watched))) {
        mem_free(copy);
        return err_nomem(err, strlen(path));
    }
    if (w) {
        mem_free(w->path); /* renamed, perhaps */
    } else {
        w = &d->watched[d->watched_count++];
    }
    *w = (struct dir_watched){.id = id, .path = copy};
    return LEVEE_OK;
}

static int hear(struct dir_source *d, const struct io_watch_event *e, struct levee_error *err)
{
    char path[IO_PATH_MAX] = "";
    struct dir_watched *w = watched_of(d, e->dir);

    if (e->kind == IO_WATCH_LOST) {
        counter_add(&d->count.lost, 1);
        d->scan_wanted = true;
        return LEVEE_OK;
    }
    if (!w) {
        return LEVEE_OK;
    }
    if (e->kind == IO_WATCH_GONE) {
        d->scan_wanted = d->scan_wanted || !w->path[0];
        mem_free(w->path);
        *w = d->watched[--d->watched_count];
        return LEVEE_OK;
    }
    int code = join(w->path, e->name, path, err);
    if (code) {
        levee_inlet_report(d->inlet, err);
        return LEVEE_OK;
    }
    if (e->kind == IO_WATCH_DIR) {
        return dir_wants_folder(d, path) ? look_through(d, path, err) : LEVEE_OK;
    }
    if (!dir_wants_file(d, path)) {
        return LEVEE_OK;
    }
    return dir_scan_tell(d, path, err);
}

/* Everything that the kernel holds, at most its queue's length. */
static int hear_all(struct dir_source *d, struct levee_error *err)
{
    struct io_watch_event e;
    int code = LEVEE_OK;

    while (d->watch && code == LEVEE_OK && io_watch_next(d->watch, &e)) {
        code = hear(d, &e, err);
    }
    return code;
}

/* ---- looking through ---- */

/* Is this directory one that it lies in (a symbolic link upwards)? */
static bool is_loop(struct dir_source *d, const char *path, const struct io_stat *st)
{
    char above[IO_PATH_MAX] = "", full[IO_PATH_MAX] = "";
    struct io_stat up = {0};
    size_t n = strlen(path);

    memcpy(above, path, n + 1);
    while (n > 0) {
        char *slash = strrchr(above, '/');
        n = slash ? (size_t)(slash - above) : 0;
        above[n] = 0;
        if (dir_full_path(d, above, full, NULL) == LEVEE_OK &&
            d->io->ops->stat(d->io, full, &up, NULL) == LEVEE_OK && up.inode == st->inode &&
            up.dev == st->dev) {
            return true;
        }
    }
    return false;
}

static int look_at_name(struct dir_source *d, const char *name, struct levee_error *err)
{
    char path[IO_PATH_MAX] = "", full[IO_PATH_MAX] = "";
    struct io_stat st = {0};
    int code = join(d->list_path, name, path, err);

    if (code == LEVEE_OK) {
        code = dir_full_path(d, path, full, err);
    }
    if (code) { /* a name too long for us is told every time */
        levee_inlet_report(d->inlet, err);
        return LEVEE_OK;
    }
    bool file = dir_wants_file(d, path), folder = dir_wants_folder(d, path);
    if (!file && !folder) {
        return LEVEE_OK;
    }
    code = d->io->ops->stat(d->io, full, &st, err);
    if (code == LEVEE_ECRASHED || code == LEVEE_ENOMEM) {
        return code;
    }
    if (code) { /* not for us; it is told every time */
        levee_inlet_report(d->inlet, err);
        return LEVEE_OK;
    }
    if (st.kind == IO_DIR) {
        return folder && !is_loop(d, path, &st) ? look_through(d, path, err) : LEVEE_OK;
    }
    return file ? dir_look(d, path, &st, err) : LEVEE_OK;
}

static int next_folder(struct dir_source *d, bool *ret_some, struct levee_error *err)
{
    char full[IO_PATH_MAX];

    *ret_some = pop(d->queue, &d->queue_at, &d->queue_count, d->list_path);
    if (!*ret_some) {
        return LEVEE_OK;
    }
    int code = dir_full_path(d, d->list_path, full, err);
    if (code == LEVEE_OK) {
        code = watch(d, d->list_path, full, err);
    }
    if (code == LEVEE_OK) {
        code = d->io->ops->list(d->io, full, &d->list, err);
    }
    d->listing = code == LEVEE_OK;
    d->list_at = 0;
    if (code && code != LEVEE_ECRASHED && code != LEVEE_ENOMEM && d->list_path[0]) {
        if (code != LEVEE_ENOTFOUND) {
            levee_inlet_report(d->inlet, err);
        }
        return LEVEE_OK; /* gone again, or not for us */
    }
    return code;
}

static void end_of_scan(struct dir_source *d)
{
    uint64_t rest = (uint64_t)d->rescan_ms * 1000000u;

    d->scanning = false;
    d->scanned = true;
    counter_add(&d->count.scans, 1);
    rest = d->scan_spent_ns * SCAN_SHARE > rest ? d->scan_spent_ns * SCAN_SHARE : rest;
    d->next_scan_ns = d->io->ops->now_ns(d->io) + rest;
}

static int scan_slice(struct dir_source *d, bool *ret_more, struct levee_error *err)
{
    bool some = true;
    int code = d->listing ? LEVEE_OK : next_folder(d, &some, err);

    *ret_more = code == LEVEE_OK && some;
    for (uint32_t n = 0; d->listing && code == LEVEE_OK && n < SLICE && !dir_group_full(d); n++) {
        if (d->list_at == d->list.count) {
            io_list_free(&d->list);
            d->listing = false;
        } else {
            code = look_at_name(d, d->list.items[d->list_at++].name, err);
        }
    }
    if (code == LEVEE_OK && !some && d->scanning) {
        end_of_scan(d);
    }
    return code;
}

int dir_scan_step(struct dir_source *d, bool *ret_more, struct levee_error *err)
{
    char path[IO_PATH_MAX] = "";
    uint64_t begin = d->io->ops->now_ns(d->io);
    int code = hear_all(d, err);

    for (uint32_t n = 0; n < SLICE && code == LEVEE_OK && !dir_group_full(d) &&
                         pop(d->told, &d->told_at, &d->told_count, path);
         n++) {
        code = dir_look(d, path, NULL, err);
    }
    if (code == LEVEE_OK) {
        code = dir_look_waiting(d, err);
    }
    bool due = d->scan_wanted || begin >= d->next_scan_ns;
    if (code == LEVEE_OK && due && !d->scanning) {
        d->scan_wanted = false;
        d->scanning = true;
        d->scan_spent_ns = 0;
        code = look_through(d, "", err);
    }
    bool more = false;
    if (code == LEVEE_OK) {
        code = scan_slice(d, &more, err);
    }
    d->scan_spent_ns += d->io->ops->now_ns(d->io) - begin;
    *ret_more = more || d->scan_wanted || d->told_count > d->told_at;
    return code;
}

uint64_t dir_scan_due(const struct dir_source *d)
{
    uint64_t waiting = dir_look_due(d);

    return waiting < d->next_scan_ns ? waiting : d->next_scan_ns;
}

/* ---- a file that has another name now ---- */

static int find_below(struct dir_source *d, const char *folder, const struct dir_entry *e,
                      char out[IO_PATH_MAX], struct io_stat *st, struct levee_error *err)
{
    char path[IO_PATH_MAX] = "", full[IO_PATH_MAX] = "";
    struct io_list list = {0};
    int code = dir_full_path(d, folder, full, err);
    int found = LEVEE_ENOTFOUND;

    if (code || d->io->ops->list(d->io, full, &list, err)) {
        return LEVEE_ENOTFOUND;
    }
    for (size_t i = 0; i < list.count && found == LEVEE_ENOTFOUND; i++) {
        if (join(folder, list.items[i].name, path, err) || dir_full_path(d, path, full, err) ||
            d->io->ops->stat(d->io, full, st, err)) {
            continue;
        }
        if (st->kind == IO_FILE && dir_same_inode(e, st) && st->size == e->size) {
            memcpy(out, path, strlen(path) + 1);
            found = LEVEE_OK;
        } else if (st->kind == IO_DIR && dir_wants_folder(d, path) && !is_loop(d, path, st)) {
            found = find_below(d, path, e, out, st, err);
        }
    }
    io_list_free(&list);
    return found;
}

int dir_scan_find(struct dir_source *d, const struct dir_entry *e, char out[IO_PATH_MAX],
                  struct io_stat *ret_st, struct levee_error *err)
{
    return find_below(d, "", e, out, ret_st, err);
}
