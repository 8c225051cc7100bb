"""Image policies, by the upstream names of their rules. Source: glance default policies."""

from xenith.http.policy import Check, admin, anyone, project_member, project_reader, service

POLICIES: dict[str, Check] = {
    "add_image": project_member,
    "delete_image": project_member,
    "get_image": project_reader,
    "get_images": project_reader,
    "modify_image": project_member,
    "publicize_image": admin,
    "communitize_image": project_member,
    "download_image": project_member,
    "upload_image": project_member,
    "add_member": project_member,
    "delete_member": project_member,
    "get_member": project_reader,
    "get_members": project_reader,
    "modify_member": project_member,
    "deactivate": project_member,
    "reactivate": project_member,
    "get_image_location": project_reader,
    "fetch_image_location": service,
    "tasks_api_access": admin,
    "schemas": anyone,
    "info": anyone,
}
