# What programs see of permissions, ACLs, extended attributes and capabilities in
# the directory $1: the same on a local disk as on a mount.
cd "$1" && mkdir acl && cd acl && umask 022 || exit 1
as() { setpriv --reuid="$1" --regid="$1" --clear-groups -- "${@:2}" 2>&1; }
mode() { stat -c '%a %n' "$@"; }
say() { echo "== $*"; }

say an access ACL and the mode
echo hi > f; chmod 640 f
setfacl -m u:1234:rw f; getfacl -cn f; mode f
as 1234 cat f; as 1235 cat f; as 1234 sh -c 'echo more >> f'
chmod 600 f; getfacl -cn f; as 1234 cat f
chmod 666 f; getfacl -cn f; as 1234 cat f
setfacl -b f; getfacl -cn f; mode f; getfattr -d -m - f
setfacl -m u::rwx,g::r,o::- f; mode f; getfattr -d -m - f

say a default ACL, the umask, and what is made below
mkdir d; setfacl -d -m u:1234:rwx,g:55:r-x d; getfacl -cn d
umask 077; echo x > d/a; mkdir d/s; mkfifo d/p; ln -s x d/l; touch d/s/b; umask 022
getfacl -cn d/a d/s d/p d/s/b; mode d/*
touch g; mkdir h; mode g h
setfacl -k d; getfacl -cn d; touch d/z; mode d/z

say what is refused, and what is no error
setfacl -d -m u:1:r f 2>&1
setfattr -n system.posix_acl_access -v 0x0200000001000600ffffffff f 2>&1
setfattr -n system.posix_acl_access -v 0x0200 f 2>&1
setfattr -n system.posix_acl_access -v 0x0300000001000600ffffffff f 2>&1
setfattr -x system.posix_acl_access f 2>&1
as 1234 setfacl -m u:1:r f

say set-group-id of a file whose owner is not in its group
touch k; chown 1234:55 k; chmod 2755 k; as 1234 setfacl -m u:77:r k; mode k

say search by an ACL only
mkdir q; setfacl -m u:1234:x,m::x q; chmod o= q; echo y > q/in
as 1234 cat q/in; as 1235 cat q/in; as 1234 ls q

say a long ACL, copies
mkdir many; setfacl -m "$(seq -s, -f 'u:%g:r' 2000 2400)" many; getfacl -cn many | wc -l
setfacl -m u:1234:r f; ls -l f | cut -c1-11
cp -a d dd; getfacl -cn dd dd/a
tar --acls -cf x.tar f d/a; mkdir ex; tar --acls -xf x.tar -C ex; getfacl -cn ex/f ex/d/a
rsync -aAX d/ rs/; getfacl -cn rs/a

say extended attributes
for n in user.a trusted.b security.c foo.d system.x user. trusted.; do setfattr -n $n -v 1 f 2>&1; done
getfattr -d -m - f; as 1234 getfattr -d -m - f
ln -s f sl; setfattr -h -n user.a -v 1 sl 2>&1; setfattr -h -n trusted.a -v 1 sl 2>&1; getfattr -h -d -m - sl
mkdir st; chmod 1777 st; as 1234 setfattr -n user.q -v 1 st
getfattr -n user.none f 2>&1; setfattr -x user.none f 2>&1

say capabilities go with a change of content or owner
caps() { setcap cap_net_raw+ep f; getcap f; "$@"; getcap f; }
caps sh -c 'echo 1 >> f'; caps chown 5 f; caps truncate -s 1 f
caps dd if=/dev/zero of=f bs=4096 count=1 oflag=direct conv=notrunc status=none

say set-user-id and set-group-id go with them, too
for m in 4755 2755 6777; do
  touch su; chown 0:0 su; chmod $m su; setfacl -m u:1234:rw su; as 1234 sh -c 'echo x > su; echo y >> su'; mode su
  chmod $m su; truncate -s 9 su; chmod $m su; chown 0:0 su; mode su; rm su
done
mkdir sg; chown 0:55 sg; chmod 3777 sg; umask 0
as 1234 sh -c 'touch sg/f; mkdir sg/d; chmod 2775 sg/f'; stat -c '%a %u %g %n' sg/*
as 1235 rm -f sg/f; as 1235 mv sg/d sg/e; as 1234 rm sg/f
exit 0
