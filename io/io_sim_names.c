/*
 * Simulated directories, and which names survive a power loss.
 *
 * A name is a link record with two flags: visible now, and on disk. An operation (create, mkdir,
 * rename, link, unlink) changes the first at once and waits in a journal to change the second.
 * Nothing here allocates after the point where something has changed, nor at a power loss.
 *
 *   N1  sync_dir makes the waiting operations of that directory durable, in order. Syncing a
 *       file makes its data and size durable, not its name.
 *   N2  At a power loss a prefix of each directory's waiting operations survives; the
 *       directories decide independently. Every operation is kept with the given chance as long
 *       as all before it in its directory were, so every prefix can happen, none and all among
 *       them.
 *   N3  A rename is one operation: old name gone, new name there, the replaced file gone, or
 *       nothing of it. Across two directories it belongs to both: it survives only in the prefix
 *       of both, and syncing one directory also makes durable what came before it in the other.
 *   N4  What is in a directory whose own name did not survive is gone, synced or not. This is
 *       stricter than journalling file systems are, and what POSIX allows.
 */
#include "io/io_sim.h"

#include <errno.h>

/* ---- finding ---- */

static struct sim_link *find_link(struct sim_disk *disk, const struct sim_inode *dir,
                                  const char *name)
{
    for (struct sim_link *l = disk->links; l != NULL; l = l->next) {
        if (l->now && l->dir == dir && strcmp(l->name, name) == 0) {
            return l;
        }
    }
    return NULL;
}

int sim_find(struct sim_disk *disk, const char *path, struct sim_place *ret)
{
    struct sim_place at = {.inode = disk->root};

    for (;;) {
        path += strspn(path, "/");
        size_t len = strcspn(path, "/");
        if (len == 0) {
            break;
        }
        if (len == 1 && path[0] == '.') {
            path += len;
            continue;
        }
        if (len == 2 && path[0] == '.' && path[1] == '.') {
            return EINVAL; /* nobody here builds such paths */
        }
        if (len > SIM_NAME_MAX) {
            return ENAMETOOLONG;
        }
        if (at.inode == NULL) {
            return ENOENT;
        }
        if (at.inode->kind != IO_DIR) {
            return ENOTDIR;
        }
        at.dir = at.inode;
        memcpy(at.name, path, len);
        at.name[len] = '\0';
        at.link = find_link(disk, at.dir, at.name);
        at.inode = at.link == NULL ? NULL : at.link->target;
        path += len;
    }
    *ret = at;
    return 0;
}

/* ---- changing ---- */

static void free_link_if_unused(struct sim_disk *disk, struct sim_link *link)
{
    struct sim_link **at = &disk->links;

    if (link->now || link->disk || link->pending > 0) {
        return;
    }
    while (*at != link) {
        at = &(*at)->next;
    }
    *at = link->next;
    if (disk->links_tail == &link->next) {
        disk->links_tail = at;
    }
    sim_inode_unref(disk, link->target);
    mem_free(link->name);
    mem_free(link);
}

static void set_now(struct sim_link *link, bool now)
{
    if (now && !link->now) {
        link->target->names++;
    } else if (!now && link->now) {
        link->target->names--;
    }
    link->now = now;
}

/*
 * Records one operation and does it in what is visible: `to` gets a link to target (NULL: none is
 * made), the links `drop` and `replaced` go. 0 or ENOMEM, and then nothing has changed.
 */
static int journal(struct sim_disk *disk, const struct sim_place *to, struct sim_inode *target,
                   struct sim_link *drop, struct sim_link *replaced)
{
    struct sim_op *op = mem_zalloc(sizeof *op);
    struct sim_link *add = NULL;
    void *ops = disk->ops;

    if (op == NULL || !mem_grow(&ops, &disk->op_cap, disk->op_count + 1, sizeof *disk->ops)) {
        goto nomem;
    }
    disk->ops = ops;
    if (to != NULL) {
        add = mem_zalloc(sizeof *add);
        if (add == NULL || (add->name = mem_strdup(to->name)) == NULL) {
            goto nomem;
        }
        add->dir = to->dir;
        add->target = target;
        add->pending = 1;
        target->refs++;
        *disk->links_tail = add;
        disk->links_tail = &add->next;
        set_now(add, true);
        op->dirs[0] = to->dir;
    }
    op->add = add;
    op->drops[0] = drop;
    op->drops[1] = replaced;
    for (size_t i = 0; i < ARRAY_LEN(op->drops); i++) {
        if (op->drops[i] != NULL) {
            op->drops[i]->pending++;
            set_now(op->drops[i], false);
        }
    }
    if (drop != NULL && drop->dir != op->dirs[0]) {
        op->dirs[op->dirs[0] == NULL ? 0 : 1] = drop->dir;
    }
    disk->ops[disk->op_count++] = op;
    return 0;
nomem:
    mem_free(add);
    mem_free(op);
    return ENOMEM;
}

int sim_name_create(struct sim_disk *disk, const struct sim_place *at, enum io_kind kind,
                    struct sim_inode **ret)
{
    struct sim_inode *inode = sim_inode_new(disk, kind);

    if (inode == NULL) {
        return ENOMEM;
    }
    inode->refs = 1; /* ours, until the link holds it */
    int rc = journal(disk, at, inode, NULL, NULL);
    sim_inode_unref(disk, inode);
    if (rc == 0) {
        *ret = inode;
    }
    return rc;
}

int sim_name_link(struct sim_disk *disk, const struct sim_place *from, const struct sim_place *to)
{
    if (from->inode == NULL) {
        return ENOENT;
    }
    if (from->inode->kind == IO_DIR) {
        return EPERM;
    }
    if (to->inode != NULL) {
        return EEXIST;
    }
    return journal(disk, to, from->inode, NULL, NULL);
}

int sim_name_unlink(struct sim_disk *disk, const struct sim_place *at)
{
    if (at->inode == NULL) {
        return ENOENT;
    }
    if (at->inode->kind == IO_DIR) {
        return EISDIR;
    }
    return journal(disk, NULL, NULL, at->link, NULL);
}

/* True if dir is `inside` or lies below it. */
static bool is_below(const struct sim_disk *disk, const struct sim_inode *dir,
                     const struct sim_inode *inside)
{
    while (dir != inside && dir != disk->root) {
        const struct sim_link *up = disk->links;
        while (up != NULL && !(up->now && up->target == dir)) {
            up = up->next;
        }
        if (up == NULL) {
            return false;
        }
        dir = up->dir;
    }
    return dir == inside;
}

int sim_name_rename(struct sim_disk *disk, const struct sim_place *from, const struct sim_place *to)
{
    if (from->inode == NULL) {
        return ENOENT;
    }
    if (from->link == NULL || to->dir == NULL) {
        return EBUSY; /* the root */
    }
    if (from->inode == to->inode) {
        return 0; /* two names of one file: POSIX leaves both */
    }
    if (from->inode->kind == IO_DIR && is_below(disk, to->dir, from->inode)) {
        return EINVAL;
    }
    if (to->inode != NULL && to->inode->kind == IO_DIR) {
        return from->inode->kind == IO_DIR ? ENOTEMPTY : EISDIR;
    }
    if (to->inode != NULL && from->inode->kind == IO_DIR) {
        return ENOTDIR;
    }
    return journal(disk, to, from->inode, from->link, to->link);
}

int sim_name_list(struct sim_disk *disk, struct sim_inode *dir, struct io_list *ret)
{
    struct io_list list = {0};
    size_t cap = 0;

    for (const struct sim_link *l = disk->links; l != NULL; l = l->next) {
        if (l->now && l->dir == dir && !io_list_add(&list, &cap, l->name)) {
            io_list_free(&list);
            return ENOMEM;
        }
    }
    io_list_sort(&list);
    *ret = list;
    return 0;
}

/* ---- durability ---- */

static void clear_marks(struct sim_disk *disk)
{
    for (struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        inode->marked = false;
    }
}

static bool in_marked_dir(const struct sim_op *op)
{
    return op->dirs[0]->marked || (op->dirs[1] != NULL && op->dirs[1]->marked);
}

static void mark_dirs(struct sim_op *op)
{
    op->dirs[0]->marked = true;
    if (op->dirs[1] != NULL) {
        op->dirs[1]->marked = true;
    }
}

/* Carries the chosen operations out on disk and forgets them; `all`: forgets the others as well. */
static void settle(struct sim_disk *disk, bool all)
{
    size_t left = 0;

    for (size_t i = 0; i < disk->op_count; i++) {
        struct sim_op *op = disk->ops[i];
        struct sim_link *links[] = {op->add, op->drops[0], op->drops[1]};
        if (!op->chosen && !all) {
            disk->ops[left++] = op;
            continue;
        }
        for (size_t k = 0; k < ARRAY_LEN(links); k++) {
            if (links[k] == NULL) {
                continue;
            }
            if (op->chosen) {
                links[k]->disk = k == 0;
            }
            links[k]->pending--;
            free_link_if_unused(disk, links[k]);
        }
        mem_free(op);
    }
    disk->op_count = left;
}

void sim_names_sync(struct sim_disk *disk, struct sim_inode *dir)
{
    clear_marks(disk);
    dir->marked = true;
    /* Backwards: once a chosen rename reaches into another directory, all that came before it there
     * is chosen as well (N3). */
    for (size_t i = disk->op_count; i-- > 0;) {
        struct sim_op *op = disk->ops[i];
        op->chosen = in_marked_dir(op);
        if (op->chosen) {
            mark_dirs(op);
        }
    }
    settle(disk, false);
}

/* Marks every directory that can be reached on disk. */
static void mark_reachable(struct sim_disk *disk)
{
    bool more = true;

    clear_marks(disk);
    disk->root->marked = true;
    while (more) {
        more = false;
        for (struct sim_link *l = disk->links; l != NULL; l = l->next) {
            if (l->disk && l->dir->marked && !l->target->marked) {
                l->target->marked = true;
                more = true;
            }
        }
    }
}

void sim_names_resolve(struct sim_disk *disk, uint64_t *rng, uint32_t keep_per_mille)
{
    struct sim_link *next;

    /* A marked directory has lost an operation: nothing that came later in it survives (N2). */
    clear_marks(disk);
    for (size_t i = 0; i < disk->op_count; i++) {
        struct sim_op *op = disk->ops[i];
        op->chosen = !in_marked_dir(op) && sim_chance(rng, keep_per_mille);
        if (!op->chosen) {
            mark_dirs(op);
        }
    }
    settle(disk, true);
    mark_reachable(disk);
    for (struct sim_link *l = disk->links; l != NULL; l = l->next) {
        l->disk = l->disk && l->dir->marked; /* N4 */
    }
    for (struct sim_link *l = disk->links; l != NULL; l = next) {
        next = l->next;
        set_now(l, l->disk);
        free_link_if_unused(disk, l);
    }
}

/* ---- the whole ---- */

int sim_names_init(struct sim_disk *disk)
{
    disk->inodes_tail = &disk->inodes;
    disk->links_tail = &disk->links;
    disk->root = sim_inode_new(disk, IO_DIR);
    if (disk->root == NULL) {
        return ENOMEM;
    }
    disk->root->refs = 1;
    return 0;
}

void sim_names_release(struct sim_disk *disk)
{
    for (size_t i = 0; i < disk->op_count; i++) {
        disk->ops[i]->chosen = false;
    }
    settle(disk, true);
    while (disk->links != NULL) {
        struct sim_link *first = disk->links;
        set_now(first, false);
        first->disk = false;
        free_link_if_unused(disk, first);
    }
    if (disk->root != NULL) {
        sim_inode_unref(disk, disk->root);
    }
    mem_free(disk->ops);
}

/* Binds a name to the whole path that leads to it. */
static uint64_t path_hash(const struct sim_disk *disk, const struct sim_link *link)
{
    uint64_t above = 0;

    for (const struct sim_link *l = disk->links; l != NULL && link->dir != disk->root;
         l = l->next) {
        if (l->now && l->target == link->dir) {
            above = path_hash(disk, l);
            break;
        }
    }
    return hash64(link->name, strlen(link->name), above + 1);
}

uint64_t sim_image_hash(const struct sim_disk *disk)
{
    uint64_t sum = 0;

    for (const struct sim_link *l = disk->links; l != NULL; l = l->next) {
        if (l->now) {
            /* A sum, so that the order in which names were made does not matter. */
            uint64_t seed = path_hash(disk, l) ^ (uint64_t)l->target->kind;
            sum += hash64(l->target->now_size > 0 ? l->target->now : (const uint8_t *)"",
                          (size_t)l->target->now_size, seed ^ l->target->now_size);
        }
    }
    return sum;
}
