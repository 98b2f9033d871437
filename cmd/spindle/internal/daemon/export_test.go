package daemon

// Within bounds an end in good order.
var Within = within
