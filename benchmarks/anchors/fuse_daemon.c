/*
 * The same six files as a daemon in C would serve them: one thread, libfuse's low-level interface,
 * direct_io, the text made at each read. The anchor of `python -m benchmarks mount`.
 *
 *     fuse_daemon MOUNTPOINT -f -s -o default_permissions,allow_other,fsname=dksmfs-anchor [keep]
 *
 * The kernel asks for everything each time (timeouts 0), or with "keep" for attributes of files once.
 */
#define FUSE_USE_VERSION 34
#include <errno.h>
#include <fuse3/fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FILES 6

static const char *const names[FILES] = {
	"hashtable_size", "merging_failed", "hashtable_entries",
	"pages_scanned", "run", "pages_merged",
};
static double kept_seconds;
static unsigned long values[FILES] = { 4096, 0, 0, 0, 0, 0 };

struct opened {
	int file;
	size_t position, length;
	char text[32];
};

static void attributes(fuse_ino_t ino, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_ino = ino;
	if (ino == FUSE_ROOT_ID) {
		st->st_mode = S_IFDIR | 0755;
		st->st_nlink = 2;
	} else {
		st->st_mode = S_IFREG | (strcmp(names[ino - 2], "run") ? 0444 : 0644);
		st->st_nlink = 1;
		st->st_size = 4096;
	}
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = { 0 };

	for (int i = 0; parent == FUSE_ROOT_ID && i < FILES; i++) {
		if (strcmp(names[i], name) == 0) {
			entry.ino = i + 2;
			attributes(entry.ino, &entry.attr);
			entry.attr_timeout = kept_seconds;
			fuse_reply_entry(req, &entry);
			return;
		}
	}
	fuse_reply_err(req, ENOENT);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	(void)fi;
	attributes(ino, &st);
	fuse_reply_attr(req, &st, ino == FUSE_ROOT_ID ? 0.0 : kept_seconds);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct opened *opened = calloc(1, sizeof(*opened));

	if (!opened) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	opened->file = ino - 2;
	fi->fh = (uintptr_t)opened;
	fi->direct_io = 1;
	fuse_reply_open(req, fi);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		    struct fuse_file_info *fi)
{
	struct opened *opened = (struct opened *)(uintptr_t)fi->fh;
	size_t length;

	(void)ino;
	if (offset == 0 || (size_t)offset != opened->position) {
		opened->length = snprintf(opened->text, sizeof(opened->text), "%lu\n",
					  values[opened->file]);
		opened->position = offset;
	}
	length = (size_t)offset < opened->length ? opened->length - offset : 0;
	if (length > size)
		length = size;
	opened->position += length;
	fuse_reply_buf(req, opened->text + offset, length);
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
		     struct fuse_file_info *fi)
{
	struct opened *opened = (struct opened *)(uintptr_t)fi->fh;

	(void)ino, (void)offset;
	if (size)
		values[opened->file] = data[0] == '1';
	fuse_reply_write(req, size);
}

static void do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	free((struct opened *)(uintptr_t)fi->fh);
	fuse_reply_err(req, 0);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		       struct fuse_file_info *fi)
{
	char reply[4096];
	size_t used = 0;

	(void)ino, (void)fi;
	if (size > sizeof(reply))
		size = sizeof(reply);
	for (int i = offset; i < FILES; i++) {
		struct stat st;
		size_t length;

		attributes(i + 2, &st);
		length = fuse_add_direntry(req, reply + used, size - used, names[i], &st, i + 1);
		if (length > size - used)
			break;
		used += length;
	}
	fuse_reply_buf(req, reply, used);
}

static const struct fuse_lowlevel_ops operations = {
	.lookup = do_lookup,
	.getattr = do_getattr,
	.open = do_open,
	.read = do_read,
	.write = do_write,
	.release = do_release,
	.readdir = do_readdir,
};

int main(int argc, char **argv)
{
	int keep = argc > 1 && strcmp(argv[argc - 1], "keep") == 0;
	struct fuse_args args = FUSE_ARGS_INIT(argc - keep, argv);
	struct fuse_cmdline_opts options;
	struct fuse_session *session;
	int failed = 1;

	kept_seconds = keep ? 1e9 : 0.0;
	if (fuse_parse_cmdline(&args, &options) || !options.mountpoint)
		return 1;
	session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
	if (!session)
		return 1;
	if (fuse_set_signal_handlers(session) == 0) {
		if (fuse_session_mount(session, options.mountpoint) == 0) {
			failed = fuse_session_loop(session) < 0;
			fuse_session_unmount(session);
		}
		fuse_remove_signal_handlers(session);
	}
	fuse_session_destroy(session);
	free(options.mountpoint);
	fuse_opt_free_args(&args);
	return failed;
}
